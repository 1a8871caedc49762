"""A user at the development pages of oidc-provider: signs in as alice and consents, or cancels.

usage: user.py URL [no]     URL is the page that pdev asked to open; `no` cancels
"""

import http.cookiejar
import re
import sys
import urllib.error
import urllib.parse
import urllib.request

jar = http.cookiejar.CookieJar()
browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))


def get(url, form=None):
    data = urllib.parse.urlencode(form).encode() if form is not None else None
    try:
        with browser.open(url, data, timeout=20) as response:
            return response.geturl(), response.read().decode()
    except urllib.error.HTTPError as error:
        return error.geturl(), error.read().decode()


cancels = sys.argv[2:] == ["no"]
url, page = get(sys.argv[1])
# The limit ends the loop if the provider shows the same page again.
for _ in range(8):
    cancel = re.search(r'href="([^"]+/abort)"', page)
    if cancels and cancel:
        url, page = get(urllib.parse.urljoin(url, cancel.group(1)))
        break
    fields = dict(re.findall(r'<input[^>]*type="hidden"[^>]*name="([^"]+)"[^>]*value="([^"]*)"', page))
    action = re.search(r'<form[^>]*action="([^"]+)"', page)
    if not action:
        break
    if "user_code" in page and "prompt" not in fields:
        fields["abort" if cancels else "confirm"] = "yes"
    if fields.get("prompt") == "login":
        fields.update(login="alice", password="x")
    url, page = get(urllib.parse.urljoin(url, action.group(1)), fields)
print(re.sub(r"<[^>]+>", " ", page)[-200:])
