"""What operators see: status, rates and tenants."""
