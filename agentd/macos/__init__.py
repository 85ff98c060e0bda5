"""What only a Mac has: launchd, privacy's refusals and prompts, the developer tools' shims."""
