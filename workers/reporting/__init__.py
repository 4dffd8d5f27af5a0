"""What operators see: the status of the deployment, its problems, and the busiest tenants."""
