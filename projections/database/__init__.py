"""Access to the database with SQLAlchemy and the drivers: engines, connections, bulk statements, pipeline mode."""
