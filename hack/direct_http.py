"""HTTP to this machine and its cluster. HTTP_PROXY in the environment is for the internet and cannot reach either."""

import urllib.request

WITHOUT_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
