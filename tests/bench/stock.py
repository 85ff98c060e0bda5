"""Stock mlx_lm.server on equal footing: `python -m tests.bench.stock --model FOLDER --port PORT`.

Takes mlx_lm.server's options and leaves their defaults alone. What agentd gives its own engine on a
CPU, stock gets as well: the fast BLAS and attention, and no calls of the C++ compiler in the middle
of a request. Its door holds more than five callers: a sixth that came in the same moment would wait
a second for TCP to knock again, which says nothing of its engine. Nothing else of its serving is
changed; GET /metrics is added, which says what it generated and caches.
"""

from typing import Any

CALLERS_AT_ONCE = 128  # that may wait to be accepted


def level_field() -> str:
    """Give MLX in this process what agentd gives its own; return which BLAS was found."""
    from agentd.model_server.engine import blas

    found = blas.speed_up()  # before MLX is imported
    from agentd.model_server.engine import cpu_attention

    cpu_attention.speed_up()
    return found


def main() -> None:
    """Serve until killed."""
    found = level_field()
    print(f"BLAS: {found}", flush=True)
    from mlx_lm import server

    generated = 0
    make_response = server.Response

    def counted(*values: Any) -> Any:  # made once per generated token
        nonlocal generated
        generated += 1
        return make_response(*values)

    class Handler(server.APIHandler):  # type: ignore[misc]
        def do_GET(self) -> None:
            if self.path != "/metrics":
                super().do_GET()
                return
            cache = self.response_generator.prompt_cache
            kept = [tokens for kind in cache._lru._lrus.values() for _model, tokens in list(kind)]
            self._set_completion_headers(200)
            self.end_headers()
            self.wfile.write(
                f"stock_completion_tokens_total {generated}\n"
                f"stock_cache_bytes {cache.nbytes}\n"
                f"stock_cache_tokens {sum(map(len, kept))}\n".encode()
            )

    server.Response = counted
    server.ThreadingHTTPServer.request_queue_size = CALLERS_AT_ONCE
    # _run_http_server has the handler as a default, bound when the module was read.
    serve = server._run_http_server
    server._run_http_server = lambda *words: serve(*words, handler_class=Handler)
    server.main()


if __name__ == "__main__":
    main()
