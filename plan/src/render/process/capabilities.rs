//! What the process runtime can do.

use crate::render::UnitForm;
use crate::runtime::{
    Addressing, Availability, ObjectChanges, RuntimeCapabilities, RuntimeDefinition, SecretLocation, Supervisor,
    Wording,
};

pub(in crate::render) static RUNTIME: RuntimeDefinition = RuntimeDefinition {
    name: "process",
    hash_name: "Process",
    capabilities: RuntimeCapabilities {
        default_rank: Some(1),
        availability: Availability::Always,
        target_variables: &[],
        addressing: Addressing::Loopback,
        secrets: SecretLocation::HostFolder,
        has_preview_network: false,
        has_images: false,
        pushes_images: false,
        supervisor: Supervisor::Agent,
        object_changes: ObjectChanges::Replace,
        runs_as_user: true,
        applies_security: false,
        // A keeper exits after its last unit, so it never causes the end of a unit.
        ends_units_when_stopped: false,
        handle_is_in_cgroups: false,
        wording: Wording {
            runtime: "the process runtime",
            in_runtime: "as a process",
            as_unit: "as a process",
            unit: "local process",
            selection: "with `runtime: process`",
            lost: "the connection to its keeper is lost: {reason}",
            no_credential_endpoint: "this system cannot tell which process opened a connection",
        },
    },
    module_rendering: catalog::RenderTarget::Process,
    form: UnitForm::Process,
};
