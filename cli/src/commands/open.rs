//! `pdev open`: the preview in a browser where there is one, its URL otherwise.

use std::process::{Command, Stdio};

use protocol::status::{PreviewState, PreviewStatus};

use crate::choose::{self, Which};
use crate::context::Context;
use crate::exit::{Failure, Outcome};

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  pdev open\n  pdev open api\n  curl \"$(pdev open --print)\"")]
pub(crate) struct Arguments {
    /// The service [default: the one at the preview's own URL]
    #[arg(value_name = "SERVICE")]
    unit: Option<String>,
    #[command(flatten)]
    which: Which,
    /// Only print the URL
    #[arg(long)]
    print: bool,
}

pub(crate) fn run(arguments: &Arguments, context: &Context) -> Outcome {
    Context::block_on(async {
        let mut client = Context::connect().await?;
        let preview = choose::preview(&mut client, context, &arguments.which).await?;
        let url = url(&preview, arguments.unit.as_deref())?;
        if context.json {
            context.terminal.say_json(&serde_json::json!({ "url": url }));
            return crate::done();
        }
        context.terminal.say(&url);
        if !arguments.print && context.terminal.person {
            browse(&url);
        }
        crate::done()
    })
}

fn url(preview: &PreviewStatus, unit: Option<&str>) -> Result<String, Failure> {
    let title = &preview.preview.title;
    if preview.state == PreviewState::Down {
        return Err(Failure::failed(format!("{title} is down")).hint("`pdev up` starts it."));
    }
    let Some(name) = unit else {
        return preview.url.clone().ok_or_else(|| Failure::not_found(format!("{title} has no service for browsers")));
    };
    choose::units(preview, &[name.to_owned()])?;
    let url = preview.units.iter().find(|unit| unit.name == name).and_then(|unit| unit.url.clone());
    url.ok_or_else(|| Failure::not_found(format!("`{name}` has no URL")).hint("Give it a `port` or `routes`."))
}

/// As far as it goes: the URL has been printed already.
fn browse(url: &str) {
    let desktop = ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some());
    let program = match () {
        () if cfg!(target_os = "macos") => "open",
        () if desktop => "xdg-open",
        () => return,
    };
    let _started =
        Command::new(program).arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
}
