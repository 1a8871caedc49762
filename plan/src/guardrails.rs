//! Rules that are on by default, as a table; findings lead back to the manifest's line.

use manifest::Code;

/// PD015: a health check or route names a port that is not there. Always broken, so never waived.
pub const PORT_MISSING: Code = Code("PD015");
