//! Drafts of the units, before placeholders are resolved: each job is merged with its service, and each unit has a
//! runtime.

use std::collections::BTreeMap;

use manifest::Diagnostic;
use manifest::model::{Job, Manifest, PortProtocol, Resource, Service};

use super::runtimes;
use crate::application::{Role, RuntimeKind, UnitName};
use crate::load::LoadedManifest;
use crate::module::Module;
use crate::resolve::PortRequest;

pub(super) struct UnitDraft<'a> {
    pub(super) name: UnitName,
    pub(super) role: Role,
    /// Path in the manifest: `services.api`.
    pub(super) path: String,
    pub(super) runtime: RuntimeKind,
    pub(super) kind: Kind<'a>,
}

pub(super) enum Kind<'a> {
    Service(&'a Service),
    /// The job's body, merged with its service.
    Job(Box<Service>, &'a Job),
    Resource(&'a Resource, &'a Module),
}

pub(super) struct RequestedPort {
    pub(super) listen_port: u16,
    pub(super) fixed: Option<u16>,
    pub(super) protocol: PortProtocol,
}

impl UnitDraft<'_> {
    pub(super) fn service(&self) -> Option<&Service> {
        match &self.kind {
            Kind::Service(service) => Some(service),
            Kind::Job(service, _) => Some(service),
            Kind::Resource(..) => None,
        }
    }

    pub(super) fn job(&self) -> Option<&Job> {
        match self.kind {
            Kind::Job(_, job) => Some(job),
            _ => None,
        }
    }

    pub(super) fn ports(&self) -> BTreeMap<String, RequestedPort> {
        if let Kind::Resource(_, module) = &self.kind {
            let ports = module.renderer.ports(self.runtime).into_iter();
            return ports
                .map(|(name, listen_port)| {
                    (name, RequestedPort { listen_port, fixed: None, protocol: PortProtocol::Tcp })
                })
                .collect();
        }
        let ports = self.service().into_iter().flat_map(|service| &service.ports);
        let requested = |(name, port): (&String, &manifest::model::Entry<manifest::model::Port>)| {
            let fixed = port.value.host.as_ref().map(|host| host.value);
            let listen_port = port.value.number.value;
            (name.clone(), RequestedPort { listen_port, fixed, protocol: port.value.protocol })
        };
        ports.map(requested).collect()
    }

    pub(super) fn port_requests(&self) -> Vec<PortRequest> {
        let to_request = |(port, requested): (String, RequestedPort)| PortRequest {
            unit: self.name.clone(),
            port,
            fixed: requested.fixed,
        };
        self.ports().into_iter().map(to_request).collect()
    }
}

/// Drafts all services, then all jobs, then all resources whose module is known.
pub(super) fn draft_units<'a>(
    loaded: &'a LoadedManifest,
    default_runtime: RuntimeKind,
    diagnostics: &mut Vec<Diagnostic>,
    notes: &mut Vec<String>,
) -> Vec<UnitDraft<'a>> {
    let manifest = &loaded.manifest;
    let mut chooser = runtimes::RuntimeChooser { manifest, default_runtime, diagnostics, notes };
    let services = manifest.services.keys().map(|name| (Role::Service, name));
    let jobs = manifest.jobs.keys().map(|name| (Role::Job, name));
    let resources = manifest.resources.keys().map(|name| (Role::Resource, name));
    let all = services.chain(jobs).chain(resources);
    all.filter_map(|(role, name)| draft_unit(loaded, &mut chooser, role, name)).collect()
}

/// Drafts one unit. `None` if there is no such unit or its module is unknown.
pub(super) fn draft_unit<'a>(
    loaded: &'a LoadedManifest,
    chooser: &mut runtimes::RuntimeChooser<'_>,
    role: Role,
    name: &str,
) -> Option<UnitDraft<'a>> {
    let manifest = &loaded.manifest;
    let (path, runtime, kind) = match role {
        Role::Service => {
            let entry = manifest.services.get(name)?;
            let path = format!("services.{name}");
            let runtime = chooser.choose_for_service(name, &path, entry.key, &entry.value);
            (path, runtime, Kind::Service(&entry.value))
        }
        Role::Job => {
            let entry = manifest.jobs.get(name)?;
            let path = format!("jobs.{name}");
            let body = job_body(manifest, &entry.value);
            let runtime = chooser.choose_for_service(name, &path, entry.key, &body);
            (path, runtime, Kind::Job(Box::new(body), &entry.value))
        }
        Role::Resource => {
            let entry = manifest.resources.get(name)?;
            let module = loaded.modules.get(name)?;
            let path = format!("resources.{name}");
            let runtime = chooser.choose_for_resource(name, &path, entry.key, &entry.value, module);
            (path, runtime, Kind::Resource(&entry.value, module))
        }
    };
    Some(UnitDraft { name: name.to_owned(), role, path, runtime, kind })
}

/// A job with `service:` inherits from that service: image, build, folder, environment, volumes, limits. It does not
/// inherit settings that make a service reachable (ports, routes, health).
fn job_body(manifest: &Manifest, job: &Job) -> Service {
    let mut body = job.body.clone();
    let Some(base) = job.service.as_ref().and_then(|name| manifest.services.get(&name.value)) else { return body };
    let base = base.value.clone();
    let has_own_image = body.image.is_some() || body.build.is_some();
    if !has_own_image {
        body.image = base.image;
        body.build = base.build;
    }
    if let Some(mut process) = base.process {
        // The job's own `command` also replaces the service's `process.command`, which would start the service instead.
        let job_process = body.process.take().unwrap_or_default();
        process.command =
            job_process.command.or_else(|| if body.command.is_some() { None } else { process.command.take() });
        process.dir = job_process.dir.or(process.dir);
        process.build = job_process.build.or(process.build);
        process.user = job_process.user.or(process.user);
        process.env.extend(job_process.env);
        body.process = Some(process);
    }
    body.command = body.command.or(base.command);
    body.entrypoint = body.entrypoint.or(base.entrypoint);
    body.dir = body.dir.or(base.dir);
    body.runtime = body.runtime.or(base.runtime);
    body.pull = body.pull.or(base.pull);
    body.identity = body.identity.or(base.identity);
    body.secrets.extend(base.secrets);
    body.env = merge_maps(base.env, body.env);
    body.volumes = merge_maps(base.volumes, body.volumes);
    body.size.cpu_milli = body.size.cpu_milli.or(base.size.cpu_milli);
    body.size.memory = body.size.memory.or(base.size.memory);
    body.size.pids = body.size.pids.or(base.size.pids);
    inherit_security(&mut body, base.security);
    body.raw.docker = body.raw.docker.or(base.raw.docker);
    body
}

fn inherit_security(body: &mut Service, base: manifest::model::Security) {
    let own = &mut body.security;
    if own.capabilities.is_empty() {
        own.capabilities = base.capabilities;
    }
    if own.drop.is_empty() {
        own.drop = base.drop;
    }
    own.privileged = own.privileged.take().or(base.privileged);
    own.read_only = own.read_only.take().or(base.read_only);
    own.user = own.user.take().or(base.user);
    own.no_new_privileges = own.no_new_privileges.take().or(base.no_new_privileges);
}

fn merge_maps<T>(mut base: manifest::model::Map<T>, own: manifest::model::Map<T>) -> manifest::model::Map<T> {
    base.extend(own);
    base
}
