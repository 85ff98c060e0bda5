"""Start the model server: `python -m agentd.model_server --model NAME --token-file FILE`.

The supervisor passes a listening socket (`--fd`): the port is known before the server is up, and
early callers wait in the backlog. Exit codes: 0 stopped, 78 the model or an option is wrong, 75 the
port or a file cannot be used, 70 the engine broke, 69 the engine stood still.
"""

import argparse
import asyncio
import gc
import ipaddress
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from agentd import paths
from agentd.config.last_good import effective_config
from agentd.errors import AgentdError, ConfigError, StorageError
from agentd.logs import logger as log
from agentd.model_server.engine import blas, memory
from agentd.models import store
from agentd.process import child
from agentd.process.failure import end_with_threads
from agentd.process.heart import STOPPING, Heart
from agentd.states import Exit
from agentd.terminal import say_lines

if TYPE_CHECKING:
    from agentd.model_server.calls import Engine, Language
    from agentd.model_server.engine.thread import EngineThread

STOP_S = 3.0  # from SIGTERM to the end
BEAT_S = 5.0
SAVED_BYTES_MAX = 100_000_000
PROMISE_S = 30.0
BACKLOG = 256
TRIM_S = 30.0
LOOPBACK = "127.0.0.1"


def main(argv: list[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT; return the exit code."""
    memory.keep_together()
    heart = child.child_side()
    heart.beat(PROMISE_S, "starting")
    options = _options(argv)
    try:
        home = paths.discover()
        home.create()
        config = effective_config(home).logs
        if options.log_level:
            config = config.model_copy(update={"level": options.log_level})
        logger = log.configure("model", home, config)
        end_with_threads(lambda error: _raised(error, logger, heart))
        token = read_token(options.token_file or home.token)
        folder = store.resolve(options.model, home.models)
        sock = _socket(options)
    except AgentdError as error:
        return _report(error, heart)
    try:
        found = blas.speed_up()  # before anything imports MLX
        port = sock.getsockname()[1]
        _warn_if_exposed(sock, logger)
        logger.info("model.starting", model=options.model, port=port, blas=found)
        code = asyncio.run(_serve(options, home, folder, token, sock, found, logger, heart))
        logger.info("model.stopped", code=code)
        return code
    except Exception as error:  # the top of the process: its traceback belongs in the log
        _raised(error, logger, heart)
        return Exit.FAILED
    finally:
        log.close()


def read_token(path: Path) -> str:
    """Return the bearer token.

    Raises:
        StorageError: it cannot be read.
        ConfigError: it is empty, or others may read it.
    """
    try:
        mode = path.stat().st_mode
        token = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"cannot be read: {error}", where=str(path)) from error
    if mode & 0o077:
        raise ConfigError("others may read this token", where=str(path), hint=f"chmod 600 {path}")
    if not token:
        raise ConfigError("is empty", where=str(path), hint="write a token into it")
    return token


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="agentd.model_server", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--model", required=True, help="bundled or Hugging Face name, or a folder")
    parser.add_argument("--name", help="what requests call the model (default: as --model)")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--fd", type=int, help="an inherited listening socket")
    place.add_argument("--port", type=int, default=0, help="0 picks a free one")
    parser.add_argument("--host", help=f"address to listen on; default {LOOPBACK}")
    parser.add_argument("--token-file", type=Path, help="default: run/model.token of this home")
    parser.add_argument("--queue", type=int, default=64, help="calls that may wait")
    parser.add_argument("--call-deadline", type=float, default=120.0, help="seconds in a slot")
    parser.add_argument("--stall", type=float, default=120.0, help="seconds without a step")
    parser.add_argument("--load-limit", type=float, default=900.0, help="seconds to load a model")
    parser.add_argument("--cache-bytes", type=int, help="of prompt caches; default 1/8 of memory")
    parser.add_argument(
        "--saved-cache-bytes",
        type=int,
        default=SAVED_BYTES_MAX,
        help="of prompt caches kept on disk over a restart; 0 keeps none",
    )
    parser.add_argument("--unload-after", type=float, help="idle seconds; default: never")
    parser.add_argument("--window", type=int, help="tokens; default: the model's own")
    parser.add_argument("--log-level", choices=["debug", "info", "warning", "error"])
    options = parser.parse_args(argv)
    if options.fd is not None and options.host:
        parser.error("--host: the socket of --fd listens already")
    options.host = options.host or LOOPBACK
    return options


def _socket(options: argparse.Namespace) -> socket.socket:
    try:
        if options.fd is not None:
            return socket.socket(fileno=options.fd)
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        return socket.create_server((options.host, options.port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        where = f"fd {options.fd}" if options.fd is not None else f"{options.host}:{options.port}"
        why = getattr(error, "strerror", None) or error
        raise StorageError(
            f"cannot listen: {why}", where=where, hint="choose another [model] port"
        ) from error


def _warn_if_exposed(sock: socket.socket, logger: log.Logger) -> None:
    """Say that others than this machine's own programs can connect."""
    address = str(sock.getsockname()[0])
    if not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        logger.warning(
            "model.exposed", address=address, hint="the token is sent in clear; --host 127.0.0.1"
        )


async def _serve(
    options: argparse.Namespace,
    home: paths.Paths,
    folder: Path,
    token: str,
    sock: socket.socket,
    found: blas.Found,
    logger: log.Logger,
    heart: Heart,
) -> int:
    from agentd.model_server.engine.thread import EngineThread
    from agentd.model_server.engine.watchdog import EXIT_ENGINE, EXIT_STALLED, Watchdog
    from agentd.model_server.http.app import Server
    from agentd.model_server.http.server import http_server
    from agentd.model_server.language.language import ModelLanguage

    if not options.saved_cache_bytes:
        for file in home.data.glob(f"*{home.prompt_caches.stem}*.safetensors"):
            file.unlink(missing_ok=True)  # and what a kill left half written
    loop = asyncio.get_running_loop()
    ended: list[BaseException] = []

    def end(error: BaseException) -> None:
        ended.append(error)
        loop.call_soon_threadsafe(stop)

    def load_engine(language: "Language") -> "Engine":
        from agentd.model_server.engine.mlx import MlxEngine  # 2 s, in the engine's thread

        fast = found in ("system", "numpy")
        return MlxEngine(
            folder,
            language,
            fast_blas=fast,
            cache_bytes=options.cache_bytes,
            saved=home.prompt_caches if options.saved_cache_bytes else None,
            saved_bytes=options.saved_cache_bytes,
        )

    runner = EngineThread(
        lambda: ModelLanguage(folder, window=options.window),
        load_engine,
        logger,
        queue_size=options.queue,
        on_end=end,
        unload_after_s=options.unload_after,
    )

    def stalled(seconds: float) -> None:
        logger.error("engine.stalled", quiet_s=seconds)
        log.close()
        os._exit(EXIT_STALLED)

    watchdog = Watchdog(
        runner.progress, stall_s=options.stall, load_s=options.load_limit, on_stall=stalled
    )
    server = Server(
        runner,
        name=options.name or options.model,
        token=token,
        call_deadline_s=options.call_deadline,
        quiet_s=lambda: watchdog.quiet_s,
    )

    http = http_server(server.build(), knows=server.knows, stop_s=STOP_S)

    def stop() -> None:
        http.should_exit = True
        # Answers that are under way end now, with an error that says so.
        threading.Thread(target=runner.stop, args=(STOP_S,), daemon=True).start()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    runner.start()
    watchdog.start()

    def beaten(task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _raised(error, logger, heart)
            end(error)

    beating = asyncio.create_task(_beat(heart, runner))
    beating.add_done_callback(beaten)
    await http.serve(sockets=[sock])
    beating.cancel()
    await asyncio.to_thread(runner.stop, STOP_S)  # it may be saving the prompt caches
    watchdog.stop()
    if not ended:
        heart.beat(PROMISE_S, STOPPING)
        return Exit.OK
    if isinstance(ended[0], AgentdError):
        return _report(ended[0], heart)
    return EXIT_ENGINE


async def _beat(heart: Heart, runner: "EngineThread") -> None:
    """Promise the next beat. That the engine moves is the watchdog's business, not a beat's."""
    trimmed, frozen = time.monotonic(), False
    while True:
        if runner.loaded and not frozen:
            # What is loaded stays: the collector need not look at it, and so looks at the rest far
            # more often. A failed request's frames hold its tokens until then.
            gc.collect()
            gc.freeze()
        frozen = runner.loaded  # an engine that goes thaws it
        if time.monotonic() - trimmed > TRIM_S:
            await asyncio.to_thread(memory.trim)
            trimmed = time.monotonic()
        progress = runner.progress
        state = "loading" if not progress.ready else "busy" if progress.busy else "idle"
        heart.beat(PROMISE_S, state, waiting=runner.waiting(), running=runner.running())
        await asyncio.sleep(BEAT_S)


def _raised(error: BaseException, logger: log.Logger, heart: Heart) -> None:
    heart.problem(AgentdError(f"{type(error).__name__}: {error}"))
    logger.error("model.raised", exc_info=error)


def _report(error: AgentdError, heart: Heart) -> int:
    say_lines(str(error), file=sys.stderr)
    heart.problem(error)
    return error.exit_code


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # The engine's thread may be inside a step for a while yet; nothing of it has to be saved.
    os._exit(code)
