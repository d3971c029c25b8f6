"""Floor 5, command line: `jaxreason report`.

What enters: working directories of runs. What leaves: one HTML file, or with `--serve` a page on this machine alone that
follows them.
"""

import argparse
import http.server
import os
import sys
from pathlib import Path

from jaxreason.errors import UserError
from jaxreason.report import page


def command(arguments: argparse.Namespace) -> int:
  """Writes the report, or serves it until it is interrupted."""
  workdirs = [Path(name) for name in (arguments.workdir or "").split(",") if name]
  if not workdirs:
    raise UserError("jaxreason report expected --workdir, got none; give one, or several with commas between them")
  if arguments.serve is not None:
    return _serve(workdirs, arguments.serve)
  path = Path(arguments.output) if arguments.output else workdirs[0] / "report.html"
  text = page.page(workdirs)
  part = path.with_name(path.name + ".part")
  part.write_text(text, encoding="utf-8")
  os.replace(part, path)
  print(path)
  return 0


def _serve(workdirs: list[Path], port: int) -> int:
  page.data(workdirs)  # what is wrong is told now

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      asked = self.path.partition("?")[0]
      if asked not in ("/", "/data"):
        self.send_error(404)
        return
      body = (page.following() if asked == "/" else page.data(workdirs)).encode()
      self.send_response(200)
      self.send_header("Content-Type", "text/html; charset=utf-8" if asked == "/" else "text/plain")
      self.send_header("Content-Length", str(len(body)))
      self.send_header("Cache-Control", "no-store")
      self.end_headers()
      self.wfile.write(body)

    def log_message(self, *_):
      pass

  try:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
  except OSError as error:
    raise UserError(f"--serve expected a free port, got {port} ({error.strerror}); give another, or 0 for any") from error
  with server:
    print(f"http://127.0.0.1:{server.server_port}/ follows {', '.join(map(str, workdirs))}; Ctrl-C ends it", flush=True)
    try:
      server.serve_forever()
    except KeyboardInterrupt:
      print("", file=sys.stderr)
  return 0
