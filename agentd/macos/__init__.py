"""What only a Mac has: launchd, privacy's refusals and prompts, the developer tools' shims.

`launchd.py` is the LaunchAgent, `launchctl.py` starts and stops it. `privacy.py` says what macOS
keeps programs out of, `folder_access.py` tries that early; `developer_tools.py` is about the shims.
`scripts.py` are the fixed scripts by which apps are told what to do, `on_screen.py` shows a
notification.
"""
