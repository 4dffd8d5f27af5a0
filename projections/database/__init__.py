"""How SQLAlchemy and the drivers are used: engines, connections, bulk statements, pipelines."""
