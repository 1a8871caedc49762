//! `pdev open`: prints the URL of a preview and opens it if this machine has a browser.

use std::process::{Command, Stdio};

use agent::proxy::{STATUS_HOST, TOKEN_FILE};
use client::Client;
use host::locations::UserFolders;
use protocol::status::{PreviewState, PreviewStatus};

use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::preview_selector::{self, PreviewSelector};

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  pdev open\n  pdev open api\n  pdev open --list\n  curl \"$(pdev open --print)\"")]
pub(crate) struct Arguments {
    /// Service to open [default: the service at the preview's own URL]
    #[arg(value_name = "SERVICE")]
    unit: Option<String>,
    #[command(flatten)]
    selector: PreviewSelector,
    /// Open the list of all previews instead
    #[arg(long, conflicts_with = "unit")]
    list: bool,
    /// Print only the URL
    #[arg(long)]
    print: bool,
}

pub(crate) fn run(arguments: &Arguments, context: &Context) -> Outcome {
    Context::block_on(async {
        let mut client = Context::connect().await?;
        let url = if arguments.list {
            list_url(&client)?
        } else {
            let preview = preview_selector::find_preview(&mut client, context, &arguments.selector).await?;
            find_url(&preview, arguments.unit.as_deref())?
        };
        if context.json {
            context.terminal.print_json(&serde_json::json!({ "url": url }));
            return crate::success();
        }
        context.terminal.print_line(&url);
        if !arguments.print && context.terminal.is_interactive {
            open_browser(&url);
        }
        crate::success()
    })
}

/// Includes the token that only this user can read.
fn list_url(client: &Client) -> Result<String, Failure> {
    let no_proxy = || Failure::failed("the proxy has no port").hint("Run `pdev doctor` to see why.");
    let port = client.info().proxy_port.ok_or_else(no_proxy)?;
    let state = UserFolders::find().ok_or_else(|| Failure::failed("no home folder is known"))?.state;
    let token = std::fs::read_to_string(state.join(TOKEN_FILE))?;
    Ok(format!("http://{STATUS_HOST}:{port}/?token={token}"))
}

fn find_url(preview: &PreviewStatus, unit: Option<&str>) -> Result<String, Failure> {
    let title = &preview.preview.title;
    if preview.state == PreviewState::Down {
        return Err(Failure::failed(format!("{title} is down")).hint("Run `pdev up` to start it."));
    }
    let Some(name) = unit else {
        return preview
            .url
            .clone()
            .ok_or_else(|| Failure::not_found(format!("no service answers at the URL of {title}")));
    };
    preview_selector::refuse_unknown_units(preview, &[name.to_owned()])?;
    let url = preview.units.iter().find(|unit| unit.name == name).and_then(|unit| unit.url.clone());
    url.ok_or_else(|| {
        Failure::not_found(format!("`{name}` has no URL"))
            .hint("Give the service a `port` or `routes` in the manifest.")
    })
}

/// Best effort: the URL is already printed.
fn open_browser(url: &str) {
    let has_desktop = ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some());
    let program = match () {
        () if cfg!(target_os = "macos") => "open",
        () if has_desktop => "xdg-open",
        () => return,
    };
    // Not awaited: the browser may run longer than this command.
    let _started =
        Command::new(program).arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
}
