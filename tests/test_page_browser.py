"""The page in a real browser: what each page shows, and what each button does to the bus.

All that others wrote here is `HOSTILE`, and each window fails in its end for what the browser said.
"""

import tomllib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, StorageState

from tests.browser import Tab, a_browser, a_tab, expect
from tests.livehome import living
from tests.page_home import HOSTILE, PageHome

pytestmark = pytest.mark.timeout(300)
LINES = ["buy milk", "a game of rivers"]
CONTROLS = "a, button, input, select, textarea, summary"
FOCUSED = """(controls) => {
  const at = document.activeElement;
  const shown = getComputedStyle(at).outlineStyle !== "none";
  return [at.closest("main") !== null, at.matches(controls), shown];
}"""
SMALL = {"width": 320, "height": 640}


class World:
    """A home whose agents have each done their part, and a browser that was let in."""

    def __init__(self, home: PageHome, browser: Browser) -> None:
        self.home = home
        self._browser = browser
        self._let_in: StorageState | None = None

    def tab(self, **options: Any) -> AbstractContextManager[Tab]:
        return a_tab(self._browser, self.home.origin, storage_state=self._let_in, **options)

    def begin(self) -> None:
        home = self.home
        home.start()
        greeted = home.publish("note.added", name=HOSTILE)
        self.sorted = home.publish("lines.found", lines=[*LINES, HOSTILE], **{"from": HOSTILE})
        self.parked = home.publish("note.written", name="x")
        asked = home.publish("doubt.risen", name="x")
        self.missing = home.folder / "<img src=x onerror='pwned = 1'>.txt"
        self.lost = home.publish("file.named", path=str(self.missing))
        self.greeting = home.session(greeted, "ended")
        self.sorting = home.session(self.sorted, "ended")
        self.writing = home.session(self.parked, "parked")
        home.session(asked, "parked")
        home.session(self.lost, "failed")
        of_sorter = "SELECT id FROM outbox WHERE event_type = 'lines.sorted'"
        self.result = home.value(of_sorter)
        with self.tab() as tab:
            tab.enter(home.link())
            self._let_in = tab.page.context.storage_state()

    def pages(self) -> list[str]:
        """The address of each kind of page."""
        return [
            "/",
            "/?words=game",
            f"/results/{self.result}",
            "/agents",
            *(f"/agents/{name}" for name in ("hello", "writer", "reader")),
            *(f"/sessions/{number}" for number in (self.greeting, self.sorting, self.writing)),
            f"/sessions/{self.greeting}/turns/1/prompt",
            f"/events/{self.sorted}",
            "/model",
            "/log",
            "/ask",
        ]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("page") / "home"
    with a_browser() as browser, living(PageHome(root)) as home:
        world = World(home, browser)
        world.begin()
        yield world
        home.stop()


def said(page: Page) -> Locator:
    return page.locator("#message")


def card(page: Page, session: int) -> Locator:
    """What waits for an answer to a session."""
    return page.locator(f"#asks-{session}")


# --- every page


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_can_be_read(world: World, scheme: str) -> None:
    """By eye in both schemes and on a small screen, and by a screen reader."""
    grounds = set()
    with world.tab(viewport=SMALL, color_scheme=scheme) as tab:
        for path in world.pages():
            page = tab.go(path)
            assert page.locator("h1").count() == 1, path
            assert page.get_by_role("main").count() == 1, path
            assert page.get_by_role("navigation", name="Pages").count() == 1, path
            assert page.locator("html").get_attribute("lang") == "en"
            assert page.title().endswith("agentd"), path
            assert (path, tab.overflow) == (path, 0)
            assert (path, tab.nameless) == (path, [])
            assert (path, tab.faint) == (path, [])
            grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    (ground,) = grounds
    dark = sum(map(int, ground.strip("rgb()").split(","))) < 3 * 128
    assert dark is (scheme == "dark")


def test_others_text_is_text(world: World) -> None:
    """What models, events and files say is shown as it is, and drives nothing on any page."""
    with world.tab() as tab:
        shown = ""
        for path in world.pages():
            page = tab.go(path)
            assert page.evaluate("typeof pwned") == "undefined", path
            strange = "main img, main script, main style, main iframe, [onload], [onerror]"
            assert (path, page.locator(strange).count()) == (path, 0)
            links = [link.get_attribute("href") for link in page.locator("a").all()]
            assert all(str(link).startswith(("/", "#", "?", "http://")) for link in links), path
            outside = page.locator("a[href^='http']").all()
            assert all(a.get_attribute("rel") == "noreferrer noopener" for a in outside), path
            text = page.locator("main").inner_text()
            assert "\u202e" not in text and "\x1b" not in text, path
            shown += text
        assert "<script>pwned = 1</script>" in shown and "{{ 7 * 191 }}" in shown


def test_pages_can_be_read_without_scripts(world: World) -> None:
    """Each page is made by the server; a form brings its page back with what became of it."""
    with world.tab(java_script_enabled=False) as tab:
        for path in world.pages():
            tab.go(path)
            assert tab.page.locator("h1").count() == 1, path
        page = tab.go("/agents/hello")
        page.get_by_role("button", name="Run now").click()
        expect(said(page)).to_contain_text("hello is asked to run.")
        assert page.url.startswith(f"{world.home.origin}/agents/hello")
    triggered = "SELECT id FROM outbox WHERE event_type = 'agent.trigger' AND target = 'hello'"
    assert world.home.value(triggered)


def test_the_page_goes_by_keyboard(world: World) -> None:
    """The first key leads to the content; every control is reached, and shows that it is."""
    with world.tab() as tab:
        page = tab.go("/")
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="To the content")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("main")).to_be_focused()
        controls = (
            "main :is(a, button, input, select, textarea, summary):visible:not([type=hidden])"
        )
        wanted, reached = page.locator(controls).count(), 0
        for _ in range(3 * wanted + 30):
            page.keyboard.press("Tab")
            inside, control, shown = page.evaluate(FOCUSED, CONTROLS)
            if not inside:
                break
            assert shown, page.evaluate("document.activeElement.outerHTML")
            reached += control
        assert reached == wanted


# --- what a person does


def test_a_yes_by_a_click(world: World) -> None:
    """The question comes by itself, with the exact arguments; after the yes the file is written."""
    home, file = world.home, world.home.folder / "a.txt"
    with world.tab() as tab:
        page = tab.go("/")
        session = home.session(home.publish("note.written", name="y"), "parked")
        asks = card(page, session)
        expect(asks).to_contain_text("writer wants to do WriteFile")
        expect(asks).to_contain_text("a.txt")
        expect(asks).to_contain_text("pwned = 1</script>")
        asks.get_by_role("button", name="Yes").click()
        expect(said(page)).to_contain_text("Yes: writer may do WriteFile")
        home.until(lambda: home.at_rest(session), "it goes on")
        assert file.read_text() == HOSTILE
        expect(asks).to_have_count(0)


def test_a_no_with_its_reason(world: World) -> None:
    """By keys alone. The reason is read by the model, and nothing was written."""
    home, file = world.home, world.home.folder / "a.txt"
    file.unlink(missing_ok=True)
    session = home.session(home.publish("note.written", name="z"), "parked")
    with world.tab() as tab:
        page = tab.go("/")
        asks = card(page, session)
        asks.get_by_role("textbox").focus()
        page.keyboard.type("not that folder")
        page.keyboard.press("Enter")
        expect(asks).to_have_count(0)
    home.until(lambda: home.at_rest(session), "it goes on")
    assert not file.exists()
    read = [str(request.body["messages"]) for request in home.model.requests]
    assert any("a person said no: not that folder" in text for text in read)


def test_a_question_is_answered(world: World) -> None:
    """In words, on the agent's own page; what is typed meanwhile is not taken away by a refresh."""
    home = world.home
    session = home.session(home.publish("doubt.risen", name="y"), "parked")
    with world.tab() as tab:
        page = tab.go("/agents/asker")
        asks = card(page, session)
        asks.get_by_label("Your answer").fill("the one in Paris")
        home.publish("note.added", name="meanwhile")
        expect(page.locator("#message")).to_be_hidden()
        expect(asks.get_by_label("Your answer")).to_have_value("the one in Paris")
        asks.get_by_role("button", name="Answer").click()
        expect(asks).to_have_count(0)
    home.until(lambda: home.at_rest(session), "it goes on")
    answer = (
        "SELECT payload ->> 'answer' FROM outbox WHERE event_type = 'person.answer'"
        f" AND payload ->> 'session' = {session}"
    )
    assert home.value(answer) == "the one in Paris"


def test_pause_resume_and_run(world: World) -> None:
    """The agent's page tells by itself what became of it."""
    home, paused = world.home, "SELECT paused FROM agents WHERE name = 'sorter'"
    with world.tab() as tab:
        page = tab.go("/agents/sorter")
        state = page.locator("#head .state")
        page.get_by_role("button", name="Pause").click()
        expect(state).to_have_text("paused")
        home.until(lambda: home.value(paused) == 1, "it is written down")
        page.get_by_role("button", name="Resume").click()
        expect(state).to_have_text("running")
        home.until(lambda: home.value(paused) == 0, "it is written down")
        page.get_by_role("button", name="Run now").click()
        expect(said(page)).to_contain_text("sorter is asked to run.")
    triggered = "SELECT id FROM outbox WHERE event_type = 'agent.trigger' AND target = 'sorter'"
    assert home.value(triggered)


def test_disable_and_enable(world: World) -> None:
    """The agent's file says so, and the process goes and comes."""
    file = world.home.paths.agents_d / "asker.toml"
    with world.tab() as tab:
        page = tab.go("/agents/asker")
        state = page.locator("#head .state")
        page.get_by_role("button", name="Disable").click()
        expect(state).to_have_text("stopped")
        assert tomllib.loads(file.read_text())["enabled"] is False
        page.get_by_role("button", name="Enable").click()
        expect(state).to_have_text("running")
        assert tomllib.loads(file.read_text()).get("enabled", True) is True


def test_what_was_given_up_is_tried_again_or_dropped(world: World) -> None:
    """The reason stands there, as text. Tried again it succeeds, once the file is there."""
    home = world.home
    second = home.publish("file.named", path=str(home.folder / "nowhere.txt"))
    home.session(second, "failed")
    letter = "SELECT id FROM dead_letters WHERE event_id = {}"
    first_id = home.until(lambda: home.value(letter.format(world.lost)), "it is given up")
    second_id = home.until(lambda: home.value(letter.format(second)), "it is given up")
    world.missing.write_text("one line\n")
    with world.tab() as tab:
        page = tab.go("/agents/reader")
        dead = page.locator(f"#dead-{first_id}")
        expect(dead).to_contain_text("onerror='pwned = 1'>.txt")
        dead.get_by_role("button", name="Try again").click()
        expect(dead).to_have_count(0)
        again = "SELECT id FROM outbox WHERE target = 'reader' AND event_type = 'file.named'"
        home.session(home.until(lambda: home.value(again), "it goes again"), "ended")
        dead = page.locator(f"#dead-{second_id}")
        dead.get_by_role("button", name="Drop").click()
        expect(dead).to_have_count(0)
    assert home.value("SELECT count(*) FROM dead_letters") == 0


def test_a_label_is_corrected(world: World) -> None:
    """A click makes an example of it for `agentd eval`."""
    with world.tab() as tab:
        page = tab.go(f"/results/{world.result}")
        row = page.get_by_role("group", name="Row 1")
        row.get_by_role("button", name="idea").click()
        expect(said(page)).to_contain_text("example")
    file = world.home.paths.agents_d.parent / "eval" / "sorter.toml"
    (case,) = tomllib.loads(file.read_text())["case"]
    assert case["payload"] == {"rows": [{"text": "buy milk"}]} and case["result"] == {
        "kind": "idea"
    }


def test_a_label_of_many_values_is_corrected(world: World) -> None:
    """It is chosen from a list; what a person said stands there afterwards."""
    with world.tab() as tab:
        page = tab.go(f"/results/{world.result}")
        row = page.get_by_role("group", name="Row 2")
        choice = row.get_by_label("colour", exact=True)
        expect(choice).to_have_value("red")
        choice.select_option("black")
        row.get_by_role("button", name="Correct it").click()
        expect(said(page)).to_contain_text("example")
        expect(row.get_by_label("colour, by you")).to_have_value("black")
    file = world.home.paths.agents_d.parent / "eval" / "sorter.toml"
    cases = {case["name"]: case["result"] for case in tomllib.loads(file.read_text())["case"]}
    assert cases[f"event {world.result}, row 2: colour"] == {"colour": "black"}


def test_the_files_are_read_again(world: World) -> None:
    """By a button above the agents, as by `agentd reload`."""
    reloads = "SELECT count(*) FROM outbox WHERE event_type = 'agentd.reload'"
    before = world.home.value(reloads)
    with world.tab() as tab:
        page = tab.go("/agents")
        page.get_by_role("button", name="Read the files again").click()
        expect(said(page)).to_have_text("The configuration was read again.")
    assert world.home.value(reloads) == before + 1


def test_results_are_found(world: World) -> None:
    """By their words and by their agent, without a script too: it is a form."""
    with world.tab(java_script_enabled=False) as tab:
        page = tab.go("/")
        page.get_by_role("searchbox").fill("rivers")
        page.get_by_role("button", name="Find").click()
        expect(page.locator(f"#result-{world.result}")).to_be_visible()
        page.get_by_role("searchbox").fill("rivers nowhere")
        page.get_by_role("button", name="Find").click()
        expect(page.get_by_text("No such results.")).to_be_visible()
        page.get_by_role("searchbox").fill("")
        page.get_by_label("Of which agent").select_option("sorter")
        page.get_by_role("button", name="Find").click()
        expect(page.locator(f"#result-{world.result}")).to_be_visible()


def test_a_question_and_one_that_follows_it(world: World) -> None:
    """The answer comes by itself; what is asked on has the question before as its cause."""
    home = world.home
    with world.tab() as tab:
        page = tab.go("/ask")
        page.get_by_label("Your question").fill("Who is <b>there</b>?")
        page.get_by_label("to", exact=True).select_option("hello")
        page.get_by_role("button", name="Ask").click()
        page.wait_for_url("**/ask/*")
        first = int(page.url.rpartition("/")[2])
        asked = page.locator("article").filter(has=page.locator(f"#question-{first}"))
        expect(asked).to_contain_text("Who is <b>there</b>?")
        expect(asked.locator(".text")).to_contain_text("pwned = 1</script>")
        page.get_by_role("textbox", name="Ask on").fill("And who else?")
        page.get_by_role("button", name="Ask").click()
        page.wait_for_url(lambda url: not url.endswith(f"/{first}"))
        second = int(page.url.rpartition("/")[2])
        expect(page.locator(f"#question-{first}")).to_be_visible()
        expect(page.locator("article .text")).to_have_count(2)
    of_first = "SELECT cause_id FROM outbox WHERE id = "
    answer = home.value(f"{of_first}{second}")
    assert answer == first or home.value(f"{of_first}{answer}") == first


def test_a_session_turn_by_turn(world: World) -> None:
    """Its decisions with their exact prompts, its tree, and the command that runs it again."""
    with world.tab(permissions=["clipboard-read", "clipboard-write"]) as tab:
        page = tab.go(f"/sessions/{world.sorting}")
        turns = page.locator("article.turn")
        expect(turns.filter(has_text="Row")).to_have_count(len(LINES) + 1)
        page.get_by_role("button", name="Copy").click()
        expect(said(page)).to_have_text("Copied.")
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied == f"agentd replay {world.sorting}"
        expect(page.locator("#causes")).to_contain_text("lines.sorted")
        turns.filter(has_text="Row").first.get_by_role("link", name="prompt").click()
        expect(page.locator("main")).to_contain_text("Sort the line.")
        expect(page.locator("main")).to_contain_text("buy milk")


def test_the_log_by_level_agent_and_session(world: World) -> None:
    """A form: what does not match is not shown, and a line leads to its session."""
    with world.tab() as tab:
        page = tab.go("/log")
        page.get_by_role("combobox", name="Level").select_option("error")
        page.get_by_role("combobox", name="Of", exact=True).select_option("reader")
        page.get_by_role("button", name="Show").click()
        page.wait_for_url("**level=error**")
        lines = page.locator("#lines article")
        expect(lines.first).to_contain_text("event.dead")
        assert set(lines.locator(".who").all_inner_texts()) == {"reader"}
        assert set(lines.locator(".level").all_inner_texts()) == {"error"}
        page.goto(f"{tab.origin}/log?session={world.greeting}")
        assert set(lines.locator(".who").all_inner_texts()) == {"hello"}
        lines.first.get_by_role("link").first.click()
        expect(page.locator("h1")).to_be_visible()


# --- what happens meanwhile


def test_what_is_new_comes_by_itself(world: World) -> None:
    """A result, and a log line; a page that is hidden listens no more."""
    home = world.home
    with world.tab() as today, world.tab() as log:
        today.go("/")
        log.go("/log?agent=sorter")
        event = home.publish("lines.found", lines=["quite new"], **{"from": "now"})
        expect(today.page.get_by_role("link", name="1 lines, 1 tasks: now")).to_be_visible()
        expect(log.page.locator("#lines")).to_contain_text(f"event {event}")


# Each answer seems to take `takes` milliseconds.
SLOWED = """() => {
  window.pauses = [];
  window.takes = 1;
  const [fetched, timed] = [fetch, setTimeout];
  let clock = 0;
  performance.now = () => clock;
  window.fetch = async (...what) => {
    const answer = await fetched(...what);
    clock += window.takes;
    return answer;
  };
  window.setTimeout = (act, ms, ...more) => {
    pauses.push(ms);
    return timed(act, ms, ...more);
  };
}"""


def test_a_page_that_is_slow_is_asked_for_less_often(world: World) -> None:
    """A quick one soon shows the second of two events as well: it once waited 0.4 s for that."""
    with world.tab() as tab:
        page = tab.go("/")
        page.evaluate(SLOWED)
        for takes, pause in ((5, 150), (300, 1200), (60_000, 2000)):
            page.evaluate("(ms) => { takes = ms; refreshAll('[data-live]'); }", takes)
            page.wait_for_function("(ms) => pauses.includes(ms)", arg=pause)


def test_the_page_comes_back_after_a_restart(world: World) -> None:
    """It says that agentd is away, and goes on by itself where the daemon is back."""
    home = world.home
    with world.tab() as tab:
        page = tab.go("/")
        home.stop()
        expect(page.locator("#away")).to_be_visible()
        home.launch()
        expect(page.locator("#away")).to_be_hidden(timeout=60_000)
        home.publish("lines.found", lines=["after"], **{"from": "the restart"})
        new = page.get_by_role("link", name="1 lines, 1 tasks: the restart")
        expect(new).to_be_visible(timeout=60_000)
        tab.forgive_lost_server()
