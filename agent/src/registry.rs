//! Stores what must survive a restart of the agent: each preview's identity, labels, ports and last request. One file
//! per preview.
//!
//! It does not record what runs; the runtimes do. If it is lost, ports and labels are assigned again, and no preview
//! stops.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use credentials::session::Session;
use host::files::replace_file;
use host::folder_id::FolderId;
use plan::application::{PreviewId, PreviewName};
use plan::target::Targets;
use protocol::request::UpRequest;
use serde::{Deserialize, Serialize};

use crate::disk::Snapshot;
use crate::retained_options::RetainedOptions;

/// Below Linux's default range for outgoing connections (32768 and up), so that the kernel does not assign one of these
/// ports to an unrelated connection.
const PORT_RANGE: std::ops::RangeInclusive<u16> = 20000..=31999;

/// The version of the record format. Newer records are not touched, so that an older pdev does not destroy their data.
const SCHEMA_VERSION: u32 = 1;

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Record {
    pub schema: u32,
    pub name: PreviewName,
    /// The manifest's folder.
    pub folder: PathBuf,
    /// Recognises `folder` after a move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder_id: Option<FolderId>,
    /// Identifies this copy: git's shared folder and worktree folder, or the real path of a folder outside of git.
    pub identity: Vec<String>,
    /// True for the main checkout, which also answers at `<app>.localhost`.
    #[serde(rename = "primary")]
    pub is_primary: bool,
    /// `unit.port` -> port on the loopback address.
    pub ports: BTreeMap<String, u16>,
    pub intent: Intent,
    /// The last accepted request, without the requester's environment variables.
    pub request: UpRequest,
    /// The options that complete each request.
    #[serde(default)]
    pub retained_options: RetainedOptions,
    /// The files that the last accepted `up` read, so that the preview can be managed after the manifest is deleted.
    pub snapshot: Snapshot,
    /// Earlier branch labels. Their hosts answer with the new address.
    #[serde(default)]
    #[serde(rename = "former")]
    pub former_labels: Vec<String>,
    /// Where the preview has units or data. The agent waits for an engine that does not answer, instead of starting the
    /// units elsewhere.
    #[serde(default)]
    pub targets: Targets,
    /// Digests of the secrets and sensitive values that each unit was last started with.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub delivered_inputs: BTreeMap<String, InputDigests>,
    /// The `context` of the manifest's environment, at the last request and at the last accepted `up`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_context: Option<String>,
    /// The coding agent's session that started the preview. Until `down`, no unit gets more access to identities than
    /// this session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Session>,
    /// Found in a runtime without a record. Nothing supervises its units until the next `up`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[serde(rename = "restored")]
    pub is_restored: bool,
    /// Units that a user stopped. Only an `up` that selects them starts them again.
    #[serde(default)]
    #[serde(rename = "resting")]
    pub stopped_units: BTreeSet<String>,
}

/// `secrets.NAME` or `env.NAME` -> digest of the value.
pub type InputDigests = BTreeMap<String, String>;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(tag = "intent", rename_all = "snake_case")]
pub enum Intent {
    /// The preview is down. Its data may still exist.
    #[default]
    Idle,
    /// Written before the first step of an `up`.
    Up,
    /// Written before the first step of a `down`.
    Down { volumes: bool },
}

pub struct Registry {
    folder: PathBuf,
    records: Mutex<BTreeMap<PreviewId, Record>>,
}

/// Reserves a port until its program is spawned. The sockets are bound but do not listen, so that a TCP probe does not
/// mistake the reservation for the program.
#[derive(Debug)]
pub struct PortReservation {
    _sockets: Vec<OwnedFd>,
}

impl Registry {
    /// Reads all records. Unreadable and newer records are reported and not changed.
    pub fn open(folder: PathBuf) -> (Self, Vec<String>) {
        let mut records = BTreeMap::new();
        let mut notes = Vec::new();
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match read_record(&path) {
                Ok(record) => drop(records.insert(record.name.id.clone(), record)),
                Err(reason) => notes.push(format!("ignored the record `{}`: {reason}", path.display())),
            }
        }
        (Self { folder, records: Mutex::new(records) }, notes)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PreviewId, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[must_use]
    pub fn get(&self, id: &PreviewId) -> Option<Record> {
        self.lock().get(id).cloned()
    }

    #[must_use]
    pub fn all(&self) -> Vec<Record> {
        self.lock().values().cloned().collect()
    }

    #[must_use]
    pub fn session_of(&self, id: &PreviewId) -> Option<Session> {
        self.lock().get(id)?.session.clone()
    }

    /// Whether a preview may have programs: one that is up, whose `down` is not complete, or that was found without a
    /// record.
    #[must_use]
    pub fn has_active_previews(&self) -> bool {
        self.lock().values().any(|record| record.intent != Intent::Idle || record.is_restored)
    }

    /// The previews that coding agents' sessions started; usually none.
    #[must_use]
    pub fn previews_with_session(&self) -> Vec<(PreviewId, Session)> {
        let records = self.lock();
        let restricted = records.values().filter_map(|record| Some((record.name.id.clone(), record.session.clone()?)));
        restricted.collect()
    }

    /// Writes a record to the disk first, then to memory, so that memory never holds a change that a crash would lose.
    ///
    /// # Errors
    /// When the state folder cannot be written.
    pub fn save(&self, record: Record) -> io::Result<()> {
        self.write(&mut self.lock(), record)
    }

    fn write(&self, records: &mut BTreeMap<PreviewId, Record>, record: Record) -> io::Result<()> {
        // An unchanged record costs no write: `replace_file` syncs, and an unchanged `up` must take milliseconds.
        if records.get(&record.name.id) == Some(&record) {
            return Ok(());
        }
        let text = serde_json::to_vec_pretty(&record).map_err(io::Error::other)?;
        replace_file(&self.record_path(&record.name.id), &text, 0o600)?;
        records.insert(record.name.id.clone(), record);
        Ok(())
    }

    /// Changes a record. An unknown preview is ignored.
    ///
    /// # Errors
    /// When the state folder cannot be written.
    pub fn edit(&self, id: &PreviewId, change: impl FnOnce(&mut Record)) -> io::Result<()> {
        // One lock for read, change and write, so that concurrent changes do not overwrite each other.
        let mut records = self.lock();
        let Some(mut record) = records.get(id).cloned() else { return Ok(()) };
        change(&mut record);
        self.write(&mut records, record)
    }

    /// # Errors
    /// When the file cannot be removed.
    pub fn remove(&self, id: &PreviewId) -> io::Result<()> {
        let mut records = self.lock();
        records.remove(id);
        match fs::remove_file(self.record_path(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn record_path(&self, id: &PreviewId) -> PathBuf {
        self.folder.join(format!("{}.json", id.0))
    }

    /// Chooses a port for every key that has none yet. Two previews never share a port.
    ///
    /// # Errors
    /// When no port of the range is free.
    pub fn claim_ports(
        &self,
        id: &PreviewId,
        known: &BTreeMap<String, u16>,
        keys: &[String],
    ) -> Result<BTreeMap<String, u16>, String> {
        let records = self.lock();
        let mut taken: BTreeSet<u16> = records
            .iter()
            .filter(|(other, _)| *other != id)
            .flat_map(|(_, record)| record.ports.values().copied())
            .collect();
        let mut ports = known.clone();
        taken.extend(ports.values().copied());
        for key in keys.iter().filter(|key| !known.contains_key(*key)) {
            let port = find_free_port(&taken, first_candidate_port(&id.0, key))
                .ok_or_else(|| format!("no free port between {} and {}", PORT_RANGE.start(), PORT_RANGE.end()))?;
            taken.insert(port);
            ports.insert(key.clone(), port);
        }
        Ok(ports)
    }
}

fn read_record(path: &Path) -> Result<Record, String> {
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    match value.get("schema").and_then(serde_json::Value::as_u64) {
        Some(schema) if schema <= u64::from(SCHEMA_VERSION) => {
            serde_json::from_value(value).map_err(|error| error.to_string())
        }
        Some(schema) => {
            Err(format!("it was written by a newer pdev (format {schema}, this version reads {SCHEMA_VERSION})"))
        }
        None => Err("it is not a record".into()),
    }
}

impl Record {
    #[must_use]
    pub fn new(name: PreviewName, folder: PathBuf, identity: Vec<String>, primary: bool, request: UpRequest) -> Self {
        Self {
            schema: SCHEMA_VERSION,
            name,
            folder_id: FolderId::of(&folder),
            folder,
            identity,
            is_primary: primary,
            ports: BTreeMap::new(),
            intent: Intent::Idle,
            request,
            retained_options: RetainedOptions::default(),
            snapshot: Snapshot::default(),
            former_labels: Vec::new(),
            targets: Targets::default(),
            context: None,
            applied_context: None,
            session: None,
            delivered_inputs: BTreeMap::new(),
            is_restored: false,
            stopped_units: BTreeSet::new(),
        }
    }
}

/// The first port to try. It depends only on the preview and the key, so that a preview usually gets the same port
/// again if its record is lost.
fn first_candidate_port(id: &str, key: &str) -> u16 {
    // FNV-1a, because the result must be the same in every version of pdev.
    let mut hash: u32 = 0x811c_9dc5;
    for byte in id.bytes().chain([b'/']).chain(key.bytes()) {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    let size = u32::from(PORT_RANGE.end() - PORT_RANGE.start()) + 1;
    PORT_RANGE.start() + u16::try_from(hash % size).unwrap_or_default()
}

fn find_free_port(taken: &BTreeSet<u16>, start: u16) -> Option<u16> {
    (start..=*PORT_RANGE.end())
        .chain(*PORT_RANGE.start()..start)
        .find(|port| !taken.contains(port) && reserve_port(*port).is_ok())
}

/// Binds a port on both loopback addresses, IPv4 and IPv6, without listening.
///
/// # Errors
/// `AddrInUse` when a program listens on the port.
pub fn reserve_port(port: u16) -> io::Result<PortReservation> {
    let mut sockets = vec![bind_socket(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port))?];
    match bind_socket(SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port)) {
        Ok(socket) => sockets.push(socket),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
        // Without an IPv6 loopback address there is nothing to reserve.
        Err(_) => {}
    }
    Ok(PortReservation { _sockets: sockets })
}

#[cfg(target_os = "linux")]
fn new_socket(family: rustix::net::AddressFamily, kind: rustix::net::SocketType) -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(family, kind, rustix::net::SocketFlags::CLOEXEC, None)?)
}

/// Other systems set the flag in a second call. A program that is spawned in between inherits the socket, and the port
/// stays bound as long as that program runs.
#[cfg(not(target_os = "linux"))]
fn new_socket(family: rustix::net::AddressFamily, kind: rustix::net::SocketType) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket(family, kind, None)?;
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
    Ok(socket)
}

fn bind_socket(address: SocketAddr) -> io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketType, bind, sockopt};
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = new_socket(family, SocketType::STREAM)?;
    // Connections of a program that has just ended (TIME_WAIT) must not make its port look taken.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, ports: &[(&str, u16)]) -> Record {
        let name =
            PreviewName { id: PreviewId(id.into()), app: "a".into(), branch: id.into(), environment: "local".into() };
        let mut record = Record::new(name, "/".into(), vec![id.into()], true, UpRequest::default());
        record.ports = ports.iter().map(|(key, port)| ((*key).to_owned(), *port)).collect();
        record
    }

    #[test]
    fn records_survive_reopen_and_newer_schemas_are_not_changed() {
        let folder = tempfile::tempdir().unwrap();
        let (registry, _) = Registry::open(folder.path().to_owned());
        registry.save(record("one", &[("web.main", 21000)])).unwrap();
        fs::write(folder.path().join("new.json"), r#"{"schema": 99}"#).unwrap();
        let (reopened, notes) = Registry::open(folder.path().to_owned());
        assert_eq!(reopened.all(), registry.all());
        assert!(notes[0].contains("newer pdev"), "{notes:?}");
        reopened.remove(&PreviewId("one".into())).unwrap();
        assert!(Registry::open(folder.path().to_owned()).0.all().is_empty());
        assert!(folder.path().join("new.json").exists());
    }

    #[test]
    fn two_hundred_previews_never_share_a_port() {
        let folder = tempfile::tempdir().unwrap();
        let (registry, _) = Registry::open(folder.path().to_owned());
        let mut used = BTreeSet::new();
        for n in 0..200 {
            let mut next = record(&format!("p{n}"), &[]);
            next.ports =
                registry.claim_ports(&next.name.id, &next.ports, &["web.main".into(), "db.main".into()]).unwrap();
            for port in next.ports.values() {
                assert!(used.insert(*port), "port {port} was assigned twice");
            }
            registry.save(next).unwrap();
        }
    }

    #[test]
    fn used_port_is_rejected_and_reserved_port_does_not_listen() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(reserve_port(port).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        let reservation = reserve_port(port).unwrap();
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
        drop(reservation);
        reserve_port(port).unwrap();
    }

    #[test]
    fn claiming_ports_does_not_change_known_ports() {
        let folder = tempfile::tempdir().unwrap();
        let (registry, _) = Registry::open(folder.path().to_owned());
        let known = BTreeMap::from([("web.main".to_owned(), 20001)]);
        let claimed =
            registry.claim_ports(&PreviewId("x".into()), &known, &["web.main".into(), "api.main".into()]).unwrap();
        assert_eq!(claimed["web.main"], 20001);
        assert_ne!(claimed["api.main"], 20001);
    }
}
