//! Renders a service or job as a local process.

use std::collections::BTreeMap;

use manifest::model::{Command, Process, Service};
use serde_json::json;

use super::units::{BuiltBody, ResolvedCommand, UnitBuilder};
use crate::application::{Argv, ProcessDir, ProcessSpec, SupportLevel};
use crate::origin::Origin;

pub(super) fn build_process(builder: &mut UnitBuilder<'_, '_>, service: &Service) -> BuiltBody {
    let process = service.process.clone().unwrap_or_default();
    let (command, manifest_key) = match &process.command {
        Some(command) => (Some(command), "process.command"),
        None => (service.command.as_ref(), "command"),
    };
    let path = format!("{}.{manifest_key}", builder.draft.path);
    let argv = command.and_then(|command| builder.resolve_command(command, &path));
    if let (Some(argv), Some(command)) = (&argv, command) {
        let origin = builder.origin(command_span(command));
        builder.record_origin("process.argv", || argv.to_redacted_json(), origin);
        // The same hash field for both keys: moving a command between them changes nothing.
        builder.record_intent("command", &argv.stable_json().to_string());
    }
    let build_path = format!("{}.process.build", builder.draft.path);
    let build = process.build.as_ref().and_then(|build| builder.resolve_command(build, &build_path));
    if let Some(build) = &build {
        builder.record_intent("process.build", &build.stable_json().to_string());
    }
    let dir = resolve_folder(builder, service, &process, command);
    let user = process.user.as_ref();
    if let Some(user) = user {
        builder.record_intent("process.user", &user.value);
    }
    let spec = ProcessSpec {
        argv: argv.map_or(Argv::List(Vec::new()), |argv: ResolvedCommand| argv.to_argv()),
        dir: ProcessDir::Project(dir),
        build: build.map(|build| build.to_argv()),
        build_inputs: process.inputs.iter().map(|input| input.value.clone()).collect(),
        user: user.map(|user| user.value.clone()),
        init: Vec::new(),
        after_ready: Vec::new(),
        files: BTreeMap::new(),
        search_paths: Vec::new(),
        install_hint: None,
        version: None,
    };
    BuiltBody { body: spec.into(), volumes: Vec::new(), support: SupportLevel::Paved }
}

/// The working directory: as written, else the folder of `build`, else the folder of the file that contains the command.
fn resolve_folder(
    builder: &mut UnitBuilder<'_, '_>,
    service: &Service,
    process: &Process,
    command: Option<&Command>,
) -> String {
    if let Some(dir) = process.dir.as_ref().or(service.dir.as_ref()) {
        record_folder(builder, &dir.value, builder.origin(dir.span));
        return dir.value.clone();
    }
    let (folder, reason) = match &service.build {
        Some(build) => (build.context.value.clone(), "the folder of `build`"),
        None => (folder_of_file(builder, command), "the folder of the file that contains the command"),
    };
    // The manifest's own folder has never been part of the hash.
    if !["", ".", "./"].contains(&folder.as_str()) {
        record_folder(builder, &folder, Origin::Default { reason });
    }
    folder
}

fn record_folder(builder: &mut UnitBuilder<'_, '_>, folder: &str, origin: Origin) {
    builder.record_origin("process.dir", || json!(folder), origin);
    builder.record_intent("dir", folder);
}

fn folder_of_file(builder: &UnitBuilder<'_, '_>, command: Option<&Command>) -> String {
    let file = command.and_then(|command| builder.context.loaded.sources.get(command_span(command).file));
    file.and_then(|file| file.path.rsplit_once('/')).map_or(".", |(folder, _)| folder).to_owned()
}

pub(super) fn command_span(command: &Command) -> manifest::Span {
    match command {
        Command::Shell(line) => line.span,
        Command::Arguments(words) => match (words.first(), words.last()) {
            (Some(first), Some(last)) => manifest::Span { end: last.span.end, ..first.span },
            _ => manifest::Span::default(),
        },
    }
}
