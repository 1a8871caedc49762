//! What Docker can do.

use super::DockerRenderer;
use crate::render::UnitForm;
use crate::runtime::{
    Addressing, Availability, ObjectChanges, RuntimeCapabilities, RuntimeDefinition, SecretLocation, Supervisor,
    Wording,
};

pub(in crate::render) static RUNTIME: RuntimeDefinition = RuntimeDefinition {
    name: "docker",
    hash_name: "Docker",
    capabilities: RuntimeCapabilities {
        default_rank: Some(0),
        availability: Availability::Engine { name: "container engine", how_to_start: "Start Docker" },
        target_variables: &["DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"],
        addressing: Addressing::OwnNetwork,
        secrets: SecretLocation::Mounted { folder: "/run/secrets" },
        has_preview_network: true,
        has_images: true,
        pushes_images: false,
        supervisor: Supervisor::Agent,
        object_changes: ObjectChanges::Replace,
        runs_as_user: false,
        applies_security: true,
        // A stopping engine also ends its containers.
        ends_units_when_stopped: true,
        // The handle is the container's id, after which engines name the cgroups.
        handle_is_in_cgroups: true,
        wording: Wording {
            runtime: "Docker",
            in_runtime: "in Docker",
            as_unit: "in a container",
            unit: "container",
            selection: "in a container with `runtime: docker`",
            lost: "the container engine is gone; this unit recovers when the engine is back",
            no_credential_endpoint: "the engine's containers cannot reach this machine's addresses",
        },
    },
    module_rendering: catalog::RenderTarget::Docker,
    form: UnitForm::Container(&DockerRenderer),
};
