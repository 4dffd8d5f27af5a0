"""Reports for operators: the status of the deployment, its problems, and the busiest tenants."""
