//! Finds the preview and the units of a command, by name or by the working folder.

use std::path::Path;

use client::Client;
use protocol::request::{DiscoverRequest, LocateRequest};
use protocol::status::PreviewStatus;
use strings::nearest;

use crate::context::Context;
use crate::exit::Failure;
use crate::manifest_location;

// No `///`: clap would use it as the description of each command that contains these options.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct PreviewSelector {
    /// Preview, such as `shop/feature-x`, or its folder [default: the preview of this folder]
    #[arg(short = 'p', long, value_name = "NAME")]
    pub(crate) preview: Option<String>,
    /// Environment of the preview [default: the only one that is up]
    #[arg(short = 'e', long = "env", value_name = "NAME", env = "PDEV_ENV", hide_env = true)]
    pub(crate) environment: Option<String>,
}

/// The preview that the command selects. The agent knows it, but it may be down.
pub(crate) async fn find_preview(
    client: &mut Client,
    context: &Context,
    selector: &PreviewSelector,
) -> Result<PreviewStatus, Failure> {
    match &selector.preview {
        Some(name) => find_by_name(client, context, name, selector.environment.as_deref()).await,
        None => find_by_folder(client, &context.folder, selector.environment.as_deref()).await,
    }
}

async fn find_by_folder(
    client: &mut Client,
    start: &Path,
    environment: Option<&str>,
) -> Result<PreviewStatus, Failure> {
    let manifest = manifest_location::find_above(start);
    let folder = manifest.as_ref().map_or(start, |location| &location.folder);
    let request =
        LocateRequest { folder: folder.to_string_lossy().into_owned(), environment: environment.map(str::to_owned) };
    let mut located = client.locate(&request).await;
    if matches!(&located, Ok(reply) if !reply.known) {
        // Its record may be lost.
        client.discover_previews(&discover_request()).await?;
        located = client.locate(&request).await;
    }
    match located {
        Ok(reply) if reply.known => Ok(client.status(&reply.preview.id).await?),
        Ok(reply) => {
            let message = match reply.preview.app.as_str() {
                "" => format!("there is no preview of `{}`", folder.display()),
                _ => format!("there is no preview `{}`", reply.preview.title),
            };
            Err(Failure::not_found(message).hint("Run `pdev up` to start it."))
        }
        Err(error) if error.status() == Some(404) && manifest.is_none() => {
            Err(add_known_previews(manifest_location::no_manifest_failure(start), &client.previews().await?))
        }
        Err(error) => Err(error.into()),
    }
}

/// The preview with this title or id, the only one with this branch or app, or the preview of this folder.
async fn find_by_name(
    client: &mut Client,
    context: &Context,
    name: &str,
    environment: Option<&str>,
) -> Result<PreviewStatus, Failure> {
    let previews = client.previews().await?;
    if let Some(index) = find_match(&previews, name, environment)? {
        return Ok(previews.into_iter().nth(index).unwrap_or_default());
    }
    // Its record may be lost.
    let previews = client.discover_previews(&discover_request()).await?;
    if let Some(index) = find_match(&previews, name, environment)? {
        return Ok(previews.into_iter().nth(index).unwrap_or_default());
    }
    let path = context.folder.join(name);
    if path.is_dir() {
        return find_by_folder(client, &path.canonicalize()?, environment).await;
    }
    let failure = Failure::not_found(format!("no preview `{name}`"));
    match nearest(name, previews.iter().map(|preview| preview.preview.title.as_str())) {
        Some(title) => Err(failure.hint(format!("Did you mean `{title}`?"))),
        None => Err(add_known_previews(failure, &previews)),
    }
}

/// For previews whose record may be lost.
pub(crate) fn discover_request() -> DiscoverRequest {
    let target_variables = plan::runtime::RuntimeKind::target_variables(|name| std::env::var(name).ok());
    DiscoverRequest { target_variables }
}

fn find_match(previews: &[PreviewStatus], name: &str, environment: Option<&str>) -> Result<Option<usize>, Failure> {
    let is_in_environment =
        |preview: &PreviewStatus| environment.is_none_or(|name| name == preview.preview.environment);
    // From exact to vague: the first rule with a match decides, so a title is never ambiguous with a branch.
    let rules: [fn(&PreviewStatus, &str) -> bool; 5] = [
        |preview, name| preview.preview.title == name,
        |preview, name| preview.preview.id == name,
        |preview, name| format!("{}/{}", preview.preview.app, preview.preview.branch) == name,
        |preview, name| preview.preview.branch == name,
        |preview, name| preview.preview.app == name,
    ];
    for rule in rules {
        let is_match = |preview: &PreviewStatus| rule(preview, name) && is_in_environment(preview);
        let matches: Vec<usize> = (0..previews.len()).filter(|&index| is_match(&previews[index])).collect();
        match matches[..] {
            [] => {}
            [index] => return Ok(Some(index)),
            _ => {
                let titles: Vec<_> =
                    matches.iter().map(|&index| format!("`{}`", previews[index].preview.title)).collect();
                return Err(Failure::invalid_input(format!(
                    "`{name}` matches several previews: {}",
                    titles.join(", ")
                ))
                .hint("Use the complete name of one of them."));
            }
        }
    }
    Ok(None)
}

fn add_known_previews(failure: Failure, previews: &[PreviewStatus]) -> Failure {
    let titles: Vec<_> = previews.iter().take(8).map(|preview| format!("`{}`", preview.preview.title)).collect();
    match (&failure.problem.hint, titles.is_empty()) {
        (_, true) => failure,
        (None, false) => failure.hint(format!("Known previews: {}.", titles.join(", "))),
        (Some(hint), false) => {
            let hint = format!("{hint} Known previews: {}.", titles.join(", "));
            failure.hint(hint)
        }
    }
}

/// Fails if a name is not a unit of the preview.
pub(crate) fn refuse_unknown_units(status: &PreviewStatus, names: &[String]) -> Result<(), Failure> {
    let known = || status.units.iter().map(|unit| unit.name.as_str());
    for name in names {
        if known().any(|unit| unit == name) {
            continue;
        }
        let failure = Failure::not_found(format!("`{}` has no unit `{name}`", status.preview.title));
        return Err(match nearest(name, known()) {
            Some(near) => failure.hint(format!("Did you mean `{near}`?")),
            None => failure.hint(format!(
                "Use one of {}.",
                known().map(|unit| format!("`{unit}`")).collect::<Vec<_>>().join(", ")
            )),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::status::PreviewRef;

    fn status(app: &str, branch: &str, environment: &str) -> PreviewStatus {
        let suffix = if environment == "local" { String::new() } else { format!("@{environment}") };
        let preview = PreviewRef {
            id: format!("id-{app}-{branch}-{environment}"),
            title: format!("{app}/{branch}{suffix}"),
            app: app.into(),
            branch: branch.into(),
            environment: environment.into(),
        };
        PreviewStatus { preview, ..PreviewStatus::default() }
    }

    #[test]
    fn preview_matches_title_id_branch_or_app() {
        let previews = [
            status("shop", "main", "local"),
            status("shop", "main", "preview"),
            status("shop", "x", "local"),
            status("blog", "main", "local"),
        ];
        for (name, environment, expected) in [
            ("shop/main", None, Ok(Some(0))),
            ("shop/main@preview", None, Ok(Some(1))),
            ("shop/main", Some("preview"), Ok(Some(1))),
            ("x", None, Ok(Some(2))),
            ("blog", None, Ok(Some(3))),
            ("id-blog-main-local", None, Ok(Some(3))),
            ("main", None, Err(())),
            ("none", None, Ok(None)),
        ] {
            assert_eq!(find_match(&previews, name, environment).map_err(|_| ()), expected, "{name}");
        }
    }
}
