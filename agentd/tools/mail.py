"""ReadMail: what came since the last time, of a mailbox here or on a server.

Put together in the worker. Raw mails of a server come by the fetcher, which gets the password for
this one call; they are read in the hands, by the same code as those on this machine.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from agentd.errors import PermissionRefused, ToolError
from agentd.events import Result
from agentd.secret_rules import REDACTED
from agentd.tools.base import ToolCall

MESSAGE_BYTES = 256_000  # read of one mail
KNOWN = 500  # keys that are remembered of one mailbox
MOST = 50  # mails in one result; the others come the next time
FIRST = "this is the first time: what is there already counts as read"
Found = tuple[list[dict[str, Any]], int, str, dict[str, Any]]  # mails, more, note, and for later
REPLACED = "this is another mailbox than before: what is there already counts as read"


def read_mail(call: ToolCall, source: str, most: int | None) -> Result:
    """Give the new mails, the oldest first. What was given is remembered, and not given again.

    `source`: an account of the agent's file, or the path of a mailbox.
    """
    fact = f"mail:{source}"
    before = call.session.memory.get(fact) or {}
    if source in call.accounts:
        found = _on_server(call, source, most or MOST, before)
    elif call.permissions.read:
        found = _on_disk(call, source, most or MOST, before)
    else:
        names = ", ".join(call.accounts) or "it has none"
        raise PermissionRefused(
            f"{source!r} is none of [accounts] ({names}), and [permissions] read lists no mailbox"
        )
    mails, more, note, now = found
    ids: Sequence[str] = before.get("ids", ())
    # One that was moved away and back, or came twice, is a new one for its mailbox.
    new = list({mail["key"]: mail for mail in mails if mail["key"] not in ids}.values())
    now = {**now, "ids": [*ids, *now.get("ids", ()), *(mail["key"] for mail in new)][-KNOWN:]}
    messages = [{key: value for key, value in mail.items() if key != "key"} for mail in new]
    told = {"source": source, "new": len(messages), "more": more, "note": note}
    return Result(
        {key: value for key, value in told.items() if value or key != "note"}
        | {"messages": messages},
        trusted=False,
        remember={} if now == before else {fact: now},
    )


def _on_disk(call: ToolCall, path: str, most: int, before: Mapping[str, Any]) -> Found:
    keys, whole = before.get("keys"), before.get("whole", True)
    args = {"path": path, "most": most, "keys": keys, "whole": whole}
    found = call.inner("hands", "ReadMailbox", args).value
    note = FIRST if keys is None else REPLACED if found["replaced"] else ""
    return found["messages"], found["more"], note, {k: found[k] for k in ("keys", "whole")}


def _on_server(call: ToolCall, account: str, most: int, before: Mapping[str, Any]) -> Found:
    known = {key: before.get(key) for key in ("validity", "uid")}
    url, password = call.accounts[account], call.password(account)
    try:
        args = {"url": url, "password": password, "most": most, **known}
        fetched = call.inner("fetcher", "FetchMail", args).value
    except ToolError as error:  # a server may say anything, also what it was told
        raise type(error)(error.what.replace(password, REDACTED)) from error
    mails = call.inner("hands", "ParseMail", {"messages": fetched["messages"]}).value["messages"]
    now = {key: fetched[key] for key in ("validity", "uid")}
    if known["validity"] is None:
        return [], 0, FIRST, {**now, "ids": [mail["key"] for mail in mails]}
    if known["validity"] != now["validity"]:  # its numbers begin anew: go by the Message-IDs
        new = fresh([mail["key"] for mail in mails], before.get("ids", ()), whole=False)
        return [mails[i] for i in new or ()], 0, "" if new is not None else REPLACED, now
    return mails, fetched["more"], "", now


def fresh(there: Sequence[str], keys: Sequence[str], *, whole: bool) -> list[int] | None:
    """Return which of a mailbox's mails are new: not known, and behind one that is.

    Unless `keys` are all that there were: then all others are new. None: this is another mailbox.
    """
    known = set(keys)
    first = 0 if whole else next((i for i, key in enumerate(there) if key in known), None)
    if first is None:
        return None
    return [i for i in range(first, len(there)) if there[i] not in known]
