//! The network on which containers with an identity reach this machine at 169.254.170.2.
//!
//! AWS SDKs accept credentials over plain HTTP only from this address and a few others. Here it is the gateway of one
//! network for all previews: an address of this machine, on which the agent may listen without privileges. The network
//! has no other route, and its containers cannot reach each other. The agent distinguishes them by their address.

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
use crate::problem::{Problem, ProblemKind};

pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 170, 2);
const SUBNET: &str = "169.254.170.0/24";
pub(super) const NETWORK_NAME: &str = "pdev-credentials";
const LABEL: &str = "dev.pdev.endpoint";
/// Another agent or a concurrent unit that creates the network at the same moment reserves its address range before the
/// network becomes visible, and no event announces it.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
const ATTEMPTS_MAX: usize = 40;

/// Adds the network to a container that will be created. Returns a note if the container cannot have an endpoint.
pub(super) async fn attach_container(
    engine: &Engine,
    unit: &str,
    rendered: &mut RenderedContainer,
) -> Result<Option<String>, Problem> {
    if rendered.body.networking_config.is_none() {
        return Ok(Some(format!(
            "`{unit}` has no endpoint for its identity, because its `raw` fields select another network"
        )));
    }
    ensure_network(engine).await?;
    // Check after the creation: the gateway address exists only while the network does.
    if !observe::is_local_address(IpAddr::V4(ADDRESS)) {
        let reason = "the engine's networks are not on this machine (rootless, or in a virtual machine)";
        return Ok(Some(format!("`{unit}` has no endpoint for its identity: {reason}")));
    }
    rendered.extra_networks.insert(NETWORK_NAME.to_owned(), EndpointSettings::default());
    Ok(None)
}

async fn ensure_network(engine: &Engine) -> Result<(), Problem> {
    let mut last_problem = Problem::new(ProblemKind::Internal, "no attempt to create the network");
    for _ in 0..ATTEMPTS_MAX {
        match with_timeout(READ_TIMEOUT, "cannot look up a network", engine.inspect_network(NETWORK_NAME, None)).await {
            Ok(found) if is_own_network(&found) => return Ok(()),
            Ok(_) => {
                let message = format!("a network `{NETWORK_NAME}` exists that pdev did not create");
                return Err(Problem::new(ProblemKind::Refused, message)
                    .hint(format!("Remove it if it is unused: `docker network rm {NETWORK_NAME}`.")));
            }
            Err(problem) if problem.kind == ProblemKind::NotFound => {}
            Err(problem) => return Err(problem),
        }
        let failure = "cannot create the network for credential endpoints";
        match with_timeout(WRITE_TIMEOUT, failure, engine.create_network(network_request())).await {
            Ok(_) => return Ok(()),
            // Another agent was faster, or another network has the range: the next lookup shows which.
            Err(problem) => last_problem = problem,
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
    Err(last_problem.hint(format!(
        "Remove the network that uses addresses of {SUBNET}, which SDKs require; list networks with `docker network ls`."
    )))
}

fn network_request() -> NetworkCreateRequest {
    let config =
        IpamConfig { subnet: Some(SUBNET.to_owned()), gateway: Some(ADDRESS.to_string()), ..IpamConfig::default() };
    NetworkCreateRequest {
        name: NETWORK_NAME.to_owned(),
        driver: Some("bridge".to_owned()),
        // `internal`, and no traffic between containers: the network leads only to the gateway.
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

/// Removes the network after its last container. Stopped containers count, because their next start needs it.
pub(super) async fn remove_if_unused(engine: &Engine) {
    let filters = HashMap::from([("network".to_owned(), vec![NETWORK_NAME.to_owned()])]);
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
    let Ok(users) = with_timeout(READ_TIMEOUT, "cannot list containers", engine.list_containers(Some(options))).await
    else {
        return;
    };
    let Ok(found) =
        with_timeout(READ_TIMEOUT, "cannot look up a network", engine.inspect_network(NETWORK_NAME, None)).await
    else {
        return;
    };
    if users.is_empty() && is_own_network(&found) {
        // Ignore errors: the engine refuses while a container is attached, and an unused network costs nothing.
        drop(with_timeout(WRITE_TIMEOUT, "cannot remove a network", engine.remove_network(NETWORK_NAME)).await);
    }
}

/// Whether an address is in the network's range; other addresses need no call to the engine.
pub(super) fn is_in_subnet(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if address != ADDRESS && address.octets()[..3] == ADDRESS.octets()[..3])
}

/// The current address of a unit's container on the network.
pub(super) async fn unit_address(engine: &Engine, preview: &PreviewId, unit: &str) -> Result<Option<IpAddr>, Problem> {
    Ok(observe::find_container(engine, preview, unit).await?.as_ref().and_then(address_on_network))
}

fn address_on_network(container: &ContainerSummary) -> Option<IpAddr> {
    let networks = container.network_settings.as_ref()?.networks.as_ref()?;
    networks.get(NETWORK_NAME)?.ip_address.as_deref()?.parse().ok()
}
