"""Which figures grow with agents, events, turns, tools and windows: `tests.bench growth`."""
