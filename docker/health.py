"""Whether the app in this container answers on its health route: Gradio's apps have /health, Streamlit's its own."""

import os
import sys
import urllib.error
import urllib.request

for route in ("/health", "/_stcore/health"):
    try:
        address = f"http://127.0.0.1:{os.environ.get('PORT', '7860')}{route}"
        with urllib.request.urlopen(address, timeout=4) as answer:
            if answer.headers.get_content_type() != "text/html":  # Streamlit sends its page for a route it has not
                sys.exit(0)
    except urllib.error.HTTPError:
        continue
    except OSError:
        break
sys.exit(1)
