//! The proxy's own responses: one message, rendered for a browser, a program or a terminal.
//!
//! Pages load no resources and run no scripts. HTML escapes all text; the text form removes control characters of the
//! service's log.

use std::fmt::Write as _;

use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFRESH, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::body::ResponseBody;

/// The page contains its style, and loads nothing else.
const CSP_VALUE: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

const STYLE: &str = ":root{color-scheme:light dark}body{margin:0;font:16px/1.5 system-ui,sans-serif;background:Canvas;color:CanvasText}\
main{max-width:44rem;margin:12vh auto 0;padding:0 1.5rem}h1{font-size:1.4rem;font-weight:600}\
code,pre{font:14px/1.45 ui-monospace,monospace;background:color-mix(in srgb,CanvasText 8%,Canvas);border-radius:4px}\
code{padding:.1em .3em}pre{padding:1rem;overflow:auto;white-space:pre-wrap;overflow-wrap:anywhere}a{color:LinkText}\
footer{margin-top:3rem;font-size:.8rem;opacity:.6}";

/// The response format that fits the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResponseFormat {
    Html,
    Json,
    Text,
}

impl ResponseFormat {
    pub(super) fn from_headers(headers: &HeaderMap) -> Self {
        let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
        if accept.contains("text/html") {
            Self::Html
        } else if accept.contains("application/json") || accept.contains("+json") {
            Self::Json
        } else {
            Self::Text
        }
    }
}

/// A message of the proxy.
#[derive(Debug, Clone, Default)]
pub(super) struct Page {
    pub(super) status: StatusCode,
    /// Identifies the kind of message. It is stable, so that programs can rely on it.
    pub(super) code: &'static str,
    /// A few words.
    pub(super) title: String,
    /// One sentence; may be empty.
    pub(super) detail: String,
    /// The next action of the user; may be empty.
    pub(super) hint: String,
    pub(super) links: Vec<Link>,
    /// The last lines of the service's log.
    pub(super) log: Vec<String>,
    pub(super) retry_after_seconds: Option<u32>,
    /// The browser reloads the page after one second.
    pub(super) should_reload: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) text: String,
    pub(super) url: String,
}

impl Page {
    pub(super) fn to_response(&self, format: ResponseFormat) -> Response<ResponseBody> {
        let (content_type, body) = match format {
            ResponseFormat::Html => ("text/html; charset=utf-8", self.html()),
            ResponseFormat::Json => ("application/problem+json", self.json()),
            ResponseFormat::Text => ("text/plain; charset=utf-8", self.text()),
        };
        let mut response = Response::new(ResponseBody::page(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(CSP_VALUE));
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.should_reload && format == ResponseFormat::Html {
            headers.insert(REFRESH, HeaderValue::from_static("1"));
        }
        response
    }

    fn html(&self) -> String {
        let mut out = String::with_capacity(2048);
        let title = escape_html(&self.title);
        out.push_str("<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">");
        out.push_str("<meta name=\"viewport\" content=\"width=device-width\"><meta name=\"color-scheme\" content=\"light dark\">");
        // Writing to a `String` cannot fail, here and below.
        let _ = write!(out, "<title>{title}</title><style>{STYLE}</style></head><body><main><h1>{title}</h1>");
        for paragraph in [&self.detail, &self.hint] {
            if !paragraph.is_empty() {
                let _ = write!(out, "<p>{}</p>", render_code_spans(paragraph));
            }
        }
        if !self.links.is_empty() {
            out.push_str("<ul>");
            for Link { text, url } in &self.links {
                let _ = write!(out, "<li><a href=\"{}\">{}</a></li>", escape_html(url), escape_html(text));
            }
            out.push_str("</ul>");
        }
        if !self.log.is_empty() {
            let _ = write!(out, "<pre>{}</pre>", escape_html(&self.log.join("\n")));
        }
        let _ = write!(out, "<footer>pdev · {}</footer></main></body></html>", self.code);
        out
    }

    fn json(&self) -> String {
        let mut problem = serde_json::json!({
            "type": "about:blank",
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
            "code": self.code,
        });
        if !self.hint.is_empty() {
            problem["hint"] = self.hint.as_str().into();
        }
        if !self.links.is_empty() {
            let link_json = |link: &Link| serde_json::json!({ "name": link.text, "url": link.url });
            problem["links"] = self.links.iter().map(link_json).collect();
        }
        if !self.log.is_empty() {
            problem["log"] = self.log.clone().into();
        }
        problem.to_string()
    }

    fn text(&self) -> String {
        let mut out = format!("{}\n", self.title);
        for line in [&self.detail, &self.hint] {
            if !line.is_empty() {
                let _ = writeln!(out, "{line}");
            }
        }
        for Link { text, url } in &self.links {
            let _ = writeln!(out, "  {text}  {url}");
        }
        for line in &self.log {
            // Remove escape sequences of the service's log, because a terminal would execute them.
            let line: String = line.chars().filter(|character| !character.is_control()).collect();
            let _ = writeln!(out, "  | {line}");
        }
        out
    }
}

fn escape_html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Drop control characters, such as those of terminal colours.
            other if other.is_control() && other != '\n' && other != '\t' => {}
            other => out.push(other),
        }
    }
    out
}

/// Escapes a message for HTML and shows its values, which are in backticks, as code.
fn render_code_spans(text: &str) -> String {
    let mut out = String::new();
    for (index, part) in text.split('`').enumerate() {
        let part = escape_html(part);
        if index % 2 == 1 {
            let _ = write!(out, "<code>{part}</code>");
        } else {
            out.push_str(&part);
        }
    }
    out
}
