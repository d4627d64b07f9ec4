"""`/metrics`: the metrics of all workers together, for Prometheus."""

from aiohttp import hdrs, web

from harmonia_py.metrics.exposition import CONTENT_TYPE, format_metrics
from harmonia_py.metrics.totals import read_figures
from harmonia_py.web.http.body import Headers, respond_bytes
from harmonia_py.web.state import BOARD, TRANSFERS


async def get(request: web.Request) -> web.StreamResponse:
    """All metrics as text. Each worker adds up those of all workers, so any of them can answer."""
    board = request.app[BOARD]
    # In a thread, because it reads a few files of the kernel and formats a thousand lines.
    text = await request.app[TRANSFERS].in_thread(lambda: format_metrics(read_figures(board)))
    headers: Headers = {hdrs.CONTENT_TYPE: CONTENT_TYPE, hdrs.CACHE_CONTROL: "no-store"}
    # Coded, the text is much shorter, because names repeat; Prometheus asks for gzip.
    return await respond_bytes(request, text.encode(), etag=None, headers=headers)
