//! The network on which containers with an identity reach this machine at 169.254.170.2.
//!
//! SDKs of AWS take credentials over plain HTTP from this address and from few others. Here it is the gateway of a network
//! of all previews: an address of this machine, where the agent may listen without any privilege. The network leads
//! nowhere else, and containers on it do not see each other; the agent tells them apart by their address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bollard::Docker as Engine;
use bollard::models::{ContainerSummary, EndpointSettings, Ipam, IpamConfig, NetworkCreateRequest, NetworkInspect};
use bollard::query_parameters::ListContainersOptionsBuilder;
use plan::application::PreviewId;

use super::problems::with_timeout;
use super::translate::RenderedContainer;
use super::{READ_TIMEOUT, WRITE_TIMEOUT, observe};
use crate::driver::{Problem, ProblemKind};

pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 170, 2);
const SUBNET: &str = "169.254.170.0/24";
const NETWORK_NAME: &str = "pdev-credentials";
const LABEL: &str = "dev.pdev.endpoint";
/// Whoever else makes the network at the same moment, a unit beside this one or another agent, has its range before
/// others can see it, and no event tells.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
const ATTEMPTS_MAX: usize = 40;

/// Puts a container that is going to be made on the network. Tells when it cannot be.
pub(super) async fn attach_container(
    engine: &Engine,
    unit: &str,
    drawn: &mut RenderedContainer,
) -> Result<Option<String>, Problem> {
    if drawn.body.networking_config.is_none() {
        return Ok(Some(format!("`{unit}` has another network by its `raw` fields, and no endpoint for its identity")));
    }
    ensure_network(engine).await?;
    if !observe::is_local_address(IpAddr::V4(ADDRESS)) {
        let where_else = "the engine's networks are not this machine's (rootless, or in a virtual machine)";
        return Ok(Some(format!("`{unit}` has no endpoint for its identity: {where_else}")));
    }
    drawn.extra_networks.insert(NETWORK_NAME.to_owned(), EndpointSettings::default());
    Ok(None)
}

async fn ensure_network(engine: &Engine) -> Result<(), Problem> {
    let mut last = Problem::new(ProblemKind::Internal, "no attempt was made");
    for _ in 0..ATTEMPTS_MAX {
        match with_timeout(READ_TIMEOUT, "cannot look up a network", engine.inspect_network(NETWORK_NAME, None)).await {
            Ok(found) if is_own_network(&found) => return Ok(()),
            Ok(_) => {
                let words = format!("there is a network `{NETWORK_NAME}` that pdev did not make");
                return Err(Problem::new(ProblemKind::Refused, words)
                    .hint(format!("Remove it, if nobody needs it: `docker network rm {NETWORK_NAME}`.")));
            }
            Err(problem) if problem.kind == ProblemKind::NotFound => {}
            Err(problem) => return Err(problem),
        }
        let what = "cannot create the network of the identities' endpoints";
        match with_timeout(WRITE_TIMEOUT, what, engine.create_network(network_request())).await {
            Ok(_) => return Ok(()),
            // Another agent was faster, or somebody has the range: the next look tells.
            Err(problem) => last = problem,
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
    Err(last.hint(format!(
        "Another network has addresses of {SUBNET}, which SDKs want; `docker network ls` shows all of them."
    )))
}

fn network_request() -> NetworkCreateRequest {
    let config =
        IpamConfig { subnet: Some(SUBNET.to_owned()), gateway: Some(ADDRESS.to_string()), ..IpamConfig::default() };
    NetworkCreateRequest {
        name: NETWORK_NAME.to_owned(),
        driver: Some("bridge".to_owned()),
        internal: Some(true),
        ipam: Some(Ipam { config: Some(vec![config]), ..Ipam::default() }),
        options: Some(HashMap::from([("com.docker.network.bridge.enable_icc".to_owned(), "false".to_owned())])),
        labels: Some(HashMap::from([(LABEL.to_owned(), "1".to_owned())])),
        ..NetworkCreateRequest::default()
    }
}

fn is_own_network(found: &NetworkInspect) -> bool {
    found.labels.as_ref().is_some_and(|labels| labels.contains_key(LABEL))
}

/// Removes the network with its last container. Stopped ones count: they want it back at their next start.
pub(super) async fn remove_if_unused(engine: &Engine) {
    let filters = HashMap::from([("network".to_owned(), vec![NETWORK_NAME.to_owned()])]);
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
    let Ok(left) = with_timeout(READ_TIMEOUT, "cannot list containers", engine.list_containers(Some(options))).await
    else {
        return;
    };
    let Ok(found) =
        with_timeout(READ_TIMEOUT, "cannot look up a network", engine.inspect_network(NETWORK_NAME, None)).await
    else {
        return;
    };
    if left.is_empty() && is_own_network(&found) {
        // The engine refuses while somebody is attached, and an empty network costs nothing.
        drop(with_timeout(WRITE_TIMEOUT, "cannot remove a network", engine.remove_network(NETWORK_NAME)).await);
    }
}

/// Whether an address is of the network at all; others are not worth a question to the engine.
pub(super) fn is_in_subnet(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if address != ADDRESS && address.octets()[..3] == ADDRESS.octets()[..3])
}

/// The address of a unit's container on the network, as it is now.
pub(super) async fn unit_address(engine: &Engine, preview: &PreviewId, unit: &str) -> Result<Option<IpAddr>, Problem> {
    Ok(observe::find_container(engine, preview, unit).await?.as_ref().and_then(address_on_network))
}

fn address_on_network(container: &ContainerSummary) -> Option<IpAddr> {
    let networks = container.network_settings.as_ref()?.networks.as_ref()?;
    networks.get(NETWORK_NAME)?.ip_address.as_deref()?.parse().ok()
}
