"""A person at oidc-provider's development pages: follows them, signs in as alice, consents, or says no.

usage: person.py URL [no]     the page that pdev asked to open
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
        with browser.open(url, data, timeout=20) as answer:
            return answer.geturl(), answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.geturl(), refused.read().decode()


no = sys.argv[2:] == ["no"]
url, page = get(sys.argv[1])
for _ in range(8):
    cancel = re.search(r'href="([^"]+/abort)"', page)
    if no and cancel:
        url, page = get(urllib.parse.urljoin(url, cancel.group(1)))
        break
    fields = dict(re.findall(r'<input[^>]*type="hidden"[^>]*name="([^"]+)"[^>]*value="([^"]*)"', page))
    action = re.search(r'<form[^>]*action="([^"]+)"', page)
    if not action:
        break
    if "user_code" in page and "prompt" not in fields:
        fields["abort" if no else "confirm"] = "yes"
    if fields.get("prompt") == "login":
        fields.update(login="alice", password="x")
    url, page = get(urllib.parse.urljoin(url, action.group(1)), fields)
print(re.sub(r"<[^>]+>", " ", page)[-200:])
