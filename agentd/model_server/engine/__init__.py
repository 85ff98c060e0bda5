"""The engine: many calls decoded together on one model, with their prompt caches."""
