"""Ask a running server (`make serve`) what it sees, with a deadline.

python examples/01_classify.py [URL]
"""

import sys
from pathlib import Path

from superserve import Client

IMAGES = sorted((Path(__file__).parent / "images").iterdir())

url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
with Client(url) as client:
    for image in IMAGES:
        answer = client.classify(image, slo_ms=1000)
        print(
            f"{image.name}: {answer.label}, by subnet {answer.subnet} ({answer.accuracy} %) "
            f"in {answer.timing_ms.total:.1f} ms"
        )
