//! Renders a service or job as a local process.

use std::collections::BTreeMap;

use manifest::model::Service;
use serde_json::json;

use super::units::{BuiltBody, ResolvedCommand, UnitBuilder};
use crate::application::{Argv, ProcessDir, ProcessSpec, SupportLevel};

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
        builder.record_origin("process.argv", || argv.stable_json(), origin);
        // The same hash field for both keys: moving a command between them changes nothing.
        builder.record_intent("command", &argv.stable_json().to_string());
    }
    let build_path = format!("{}.process.build", builder.draft.path);
    let build = process.build.as_ref().and_then(|build| builder.resolve_command(build, &build_path));
    if let Some(build) = &build {
        builder.record_intent("process.build", &build.stable_json().to_string());
    }
    let dir = process.dir.as_ref().or(service.dir.as_ref());
    if let Some(dir) = dir {
        let origin = builder.origin(dir.span);
        builder.record_origin("process.dir", || json!(dir.value), origin);
        builder.record_intent("dir", &dir.value);
    }
    let user = process.user.as_ref();
    if let Some(user) = user {
        builder.record_intent("process.user", &user.value);
    }
    let spec = ProcessSpec {
        argv: argv.map_or(Argv::List(Vec::new()), |argv: ResolvedCommand| argv.to_argv()),
        dir: ProcessDir::Project(dir.map_or_else(|| ".".to_owned(), |dir| dir.value.clone())),
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

pub(super) fn command_span(command: &manifest::model::Command) -> manifest::Span {
    match command {
        manifest::model::Command::Shell(line) => line.span,
        manifest::model::Command::Arguments(words) => match (words.first(), words.last()) {
            (Some(first), Some(last)) => manifest::Span { end: last.span.end, ..first.span },
            _ => manifest::Span::default(),
        },
    }
}
