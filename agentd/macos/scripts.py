"""Apps of macOS as they are told what to do: fixed scripts, with the data as arguments.

No text of a model or a person is ever part of a script. `--` ends the options, so that no argument
is taken for one. What the scripts say is Apple's: the dictionaries of these apps.
"""

OSASCRIPT = "/usr/bin/osascript"
SHORTCUTS = "/usr/bin/shortcuts"
CONSENT = "System Settings > Privacy & Security > Automation"
NO_CONSENT = "-1743"  # errAEEventNotPermitted: the person has not allowed it

ADD_REMINDER = """\
function run(argv) {
  const [title, list, due] = argv
  const app = Application("Reminders")
  const target = list ? app.lists.byName(list) : app.defaultList()
  const properties = { name: title }
  if (due) { properties.dueDate = new Date(due) }
  target.reminders.push(app.Reminder(properties))
  return target.name()
}
"""
ADD_NOTE = """\
function run(argv) {
  const app = Application("Notes")
  const folder = app.defaultAccount.defaultFolder()
  folder.notes.push(app.Note({ body: argv[0] }))
  return folder.name()
}
"""
# Events between two times, in milliseconds, and those that repeat, whenever: of those the app knows
# only the first. It is asked for a property of all events at once; one by one takes minutes.
READ_CALENDAR = """\
function run(argv) {
  const [start, stop] = argv.map((text) => new Date(Number(text)))
  const near = { _and: [{ startDate: { _lessThan: stop } }, { endDate: { _greaterThan: start } }] }
  const rows = []
  for (const calendar of Application("Calendar").calendars()) {
    for (const which of [near, { recurrence: { _beginsWith: "FREQ" } }]) {
      const found = calendar.events.whose(which)
      const names = ["uid", "summary", "location", "startDate", "endDate", "alldayEvent", "status",
        "recurrence", "excludedDates"]
      const columns = names.map((name) => found[name]())
      columns[0].forEach((_, row) => rows.push(columns.map((column) => column[row])))
    }
  }
  return JSON.stringify(rows)
}
"""


def script_argv(script: str, *data: str) -> list[str]:
    """Return the command line that runs a fixed script (JXA) on these texts."""
    return [OSASCRIPT, "-l", "JavaScript", "-e", script, "--", *data]


def shortcut_argv(name: str, given: str | None, result: str) -> list[str]:
    """Return the command line that runs a shortcut; `given` and `result` are files."""
    more = ["--input-path", given] if given else []
    return [SHORTCUTS, "run", name, *more, "--output-path", result]
