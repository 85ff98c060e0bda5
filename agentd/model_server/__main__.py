"""Start the model server: `python -m agentd.model_server --model NAME --token-file FILE`.

The supervisor passes a listening socket (`--fd`): the port is known before the server is up, and
early callers wait in the backlog. Exit codes: 0 stopped, 78 the model or an option is wrong, 75 the
port or a file cannot be used, 70 the engine broke, 69 the engine stood still.
"""

import argparse
import asyncio
import ipaddress
import os
import socket
import sys
from pathlib import Path

from agentd import paths
from agentd.config.last_good import effective_config
from agentd.errors import AgentdError, StorageError
from agentd.logs import logger as log
from agentd.model_server.engine import blas, malloc  # no others: they import MLX
from agentd.model_server.token_file import TokenFile
from agentd.models import store
from agentd.process import child
from agentd.process.channel import Channel
from agentd.process.failure import end_with_threads
from agentd.process.heart import Heart
from agentd.states import Exit
from agentd.terminal import note

STARTING_S = 30.0  # until the first beat
# A stop must not take long: an old laptop's disk writes this in half a second.
SAVED_BYTES_MAX = 100_000_000
BACKLOG = 256
LOOPBACK = "127.0.0.1"


def main(argv: list[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT; return the exit code."""
    malloc.keep_together()
    heart = child.child_side()
    heart.beat(STARTING_S, "starting")
    options = _options(argv)
    try:
        home = paths.discover()
        home.create()
        config = effective_config(home).logs
        if options.log_level:
            config = config.model_copy(update={"level": options.log_level})
        logger = log.configure("model", home, config)
        end_with_threads(lambda error: _raised(error, logger, heart))
        token = TokenFile(options.token_file or home.token)
        folder = store.resolve(options.model, home.models)
        sock = _socket(options)
    except AgentdError as error:
        return _report(error, heart)
    try:
        found = blas.speed_up()  # before anything imports MLX
        port = sock.getsockname()[1]
        _warn_if_exposed(sock, logger)
        logger.info("model.starting", model=options.model, port=port, blas=found)
        from agentd.model_server.serve import Serving  # 0.5 s: the port is open before

        serving = Serving(
            options,
            folder,
            token,
            _control(),
            caches=home.prompt_caches,
            fast_blas=found in ("system", "numpy"),
            logger=logger,
            heart=heart,
            on_error=lambda error: _raised(error, logger, heart),
        )
        ended = asyncio.run(serving.run(sock))
        code = _report(ended, heart) if isinstance(ended, AgentdError) else ended
        logger.info("model.stopped", code=code)
        return code
    except Exception as error:  # the top of the process: its traceback belongs in the log
        _raised(error, logger, heart)
        return Exit.FAILED
    finally:
        log.close()


def _control() -> Channel | None:
    """Return the way to the supervisor, if there is one."""
    fd = child.inherited(os.environ, child.CONTROL_VARIABLE)
    return None if fd is None else Channel(socket.socket(fileno=fd))


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


def _raised(error: BaseException, logger: log.Logger, heart: Heart) -> None:
    heart.problem(AgentdError(f"{type(error).__name__}: {error}"))
    logger.error("model.raised", exc_info=error)


def _report(error: AgentdError, heart: Heart) -> int:
    note(*error.lines())
    heart.problem(error)
    return error.exit_code


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # The engine's thread may be inside a step for a while yet; nothing of it has to be saved.
    os._exit(code)
