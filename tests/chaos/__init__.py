"""Kill any process of a running pipeline at any instant; then ask the database what was lost."""
