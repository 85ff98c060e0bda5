"""The agent made of configuration alone; agentd/task_agent/ has what it does.

[params]
instructions = "Answer the question from the notes."
tools = ["ReadFile", "SearchText"]
publish = "note.written"     # optional: Done's result as an event {"result": "..."}
publish_forced = true        # optional: also where nothing but Done was left to decide

Or with columns: code collects rows and facts, the model only chooses, and code writes the result's
title and text.

[params]
instructions = "Sort the notes."
first = [{ ListFiles = "~/notes" }]     # taken before the model is asked
each = "ListFiles.entries"
publish = "notes.sorted"
[result]
note = { from = "text" }
kind = { labels = ["task", "idea"] }

Or, without tools: the event's text gets the label that goes best with it, by the label's phrase and
by its name, and `publish` carries {"label": "task", "margin": 0.4, "unsure": false}.

[params]
instructions = "Label the note by its kind."   # optional, but it helps
publish = "note.labelled"
[params.labels]
task = 'Something I have to do: "'
idea = 'An idea for later: "'
"""

from agentd.task_agent.configured import ConfiguredAgent


class Task(ConfiguredAgent):
    """Does what its file says."""
