//! Codes of the diagnostics that planning reports. Each code has a page in `docs/codes/`.

use manifest::Code;

pub const UNRESOLVED: Code = Code("PD0250");
pub const UNKNOWN_OUTPUT: Code = Code("PD0251");
pub const ENVIRONMENT_VARIABLE_MISSING: Code = Code("PD0252");
pub const RUNTIME_CANNOT_RUN: Code = Code("PD0253");
pub const NO_DRIVER: Code = Code("PD0254");
pub const NEED_IMPOSSIBLE: Code = Code("PD0256");
pub const RAW_FIELD_UNKNOWN: Code = Code("PD0257");
pub const PATCH_MATCHES_NOTHING: Code = Code("PD0258");
pub const PATCH_FAILED: Code = Code("PD0259");
pub const HOST_CLASH: Code = Code("PD0260");
pub const WAIVER_UNUSED: Code = Code("PD0261");
pub const WAIVER_EXPIRED: Code = Code("PD0262");
pub const WAIVER_WEAK: Code = Code("PD0263");
pub const ALLOW_UNUSED: Code = Code("PD0264");
