//! A service or job as a plain local process.

use std::collections::BTreeMap;

use manifest::model::Service;
use serde_json::json;

use super::units::{Builder, Command, Made};
use crate::application::{Argv, Body, ProcessDir, ProcessSpec, Support};

pub(super) fn of_service(builder: &mut Builder<'_, '_>, service: &Service) -> Made {
    let process = service.process.clone().unwrap_or_default();
    let (written, word) = match &process.command {
        Some(command) => (Some(command), "process.command"),
        None => (service.command.as_ref(), "command"),
    };
    let path = format!("{}.{word}", builder.draft.path);
    let argv = written.and_then(|command| builder.command(command, &path));
    if let (Some(argv), Some(written)) = (&argv, written) {
        let origin = builder.origin(span_of(written));
        builder.note("process.argv", || argv.stable(), origin);
        builder.intend("command", &argv.stable().to_string());
    }
    let build_path = format!("{}.process.build", builder.draft.path);
    let build = process.build.as_ref().and_then(|build| builder.command(build, &build_path));
    if let Some(build) = &build {
        builder.intend("process.build", &build.stable().to_string());
    }
    let dir = process.dir.as_ref().or(service.dir.as_ref());
    if let Some(dir) = dir {
        let origin = builder.origin(dir.span);
        builder.note("process.dir", || json!(dir.value), origin);
        builder.intend("dir", &dir.value);
    }
    let user = process.user.as_ref();
    if let Some(user) = user {
        builder.intend("process.user", &user.value);
    }
    let spec = ProcessSpec {
        argv: argv.map_or(Argv::List(Vec::new()), |argv: Command| argv.text()),
        dir: ProcessDir::Project(dir.map_or_else(|| ".".to_owned(), |dir| dir.value.clone())),
        build: build.map(|build| build.text()),
        build_inputs: process.inputs.iter().map(|input| input.value.clone()).collect(),
        user: user.map(|user| user.value.clone()),
        init: Vec::new(),
        after_ready: Vec::new(),
        files: BTreeMap::new(),
        search: Vec::new(),
        install_hint: None,
    };
    Made { body: Body::Process(spec), volumes: Vec::new(), support: Support::Paved }
}

pub(super) fn span_of(command: &manifest::model::Command) -> manifest::Span {
    match command {
        manifest::model::Command::Shell(line) => line.span,
        manifest::model::Command::Arguments(words) => match (words.first(), words.last()) {
            (Some(first), Some(last)) => manifest::Span { end: last.span.end, ..first.span },
            _ => manifest::Span::default(),
        },
    }
}
