//! The table of sources: the allowed values of `source`, and the fields of each.
//!
//! The parser, the prompts, the suggestions and the reference page all use this table.

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FieldType {
    Text,
    /// `https://`, or `http://` on the loopback.
    Url,
    /// `30s`, `15m`, `1h`.
    Duration,
    /// The name of an environment variable.
    Variable,
    /// A TCP port.
    Port,
    List,
    /// The name of another identity.
    Identity,
    Choice(&'static [&'static str]),
    Flag,
}

#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub name: &'static str,
    pub field_type: FieldType,
    pub is_required: bool,
    pub doc: &'static str,
}

#[derive(Clone, Copy, Debug)]
pub struct SourceKind {
    pub name: &'static str,
    pub doc: &'static str,
    /// The user must sign in once (`pdev login`).
    pub needs_login: bool,
    /// The secret that the user enters at the login, for messages.
    pub secret_description: Option<&'static str>,
    pub fields: &'static [Field],
}

const fn required(name: &'static str, field_type: FieldType, doc: &'static str) -> Field {
    Field { name, field_type, is_required: true, doc }
}

const fn optional(name: &'static str, field_type: FieldType, doc: &'static str) -> Field {
    Field { name, field_type, is_required: false, doc }
}

/// Fields that every identity may have.
pub const COMMON_FIELDS: &[Field] = &[
    optional("description", FieldType::Text, "Its use, in a few words."),
    optional(
        "hosts",
        FieldType::List,
        "Servers whose docker, git and cargo requests it serves: `git.example.org`, `*.example.org`, `localhost:5000`.",
    ),
    optional(
        "variable",
        FieldType::Variable,
        "The variable that contains a token under `pdev run --as`, such as `GITHUB_TOKEN` or `CLOUDSDK_AUTH_ACCESS_TOKEN` [default: PDEV_TOKEN].",
    ),
    optional(
        "cloud",
        FieldType::Choice(&["aws", "google", "azure"]),
        "The cloud whose SDKs a service with this identity can use [default: aws, if the source can provide AWS credentials].",
    ),
    optional("project", FieldType::Text, "With `cloud = \"google\"`: the project that the metadata server returns."),
    optional(
        "email",
        FieldType::Text,
        "With `cloud = \"google\"`: the service account that the metadata server returns [default: default].",
    ),
    optional(
        "ask",
        FieldType::Choice(&["first-use", "never"]),
        "Whether the user must approve the first use by each repository and service [default: first-use].",
    ),
    optional(
        "notify",
        FieldType::Choice(&["desktop", "never"]),
        "Whether a desktop notification announces that the user must sign in [default: desktop].",
    ),
    optional(
        "production",
        FieldType::Flag,
        "Whether it is a production identity, which coding agents' sessions cannot use [default: false].",
    ),
    optional(
        "sessions",
        FieldType::Choice(&["read-only", "full", "none"]),
        "Access of a coding agent's session: `read-only` (if the source supports it, else none), `full` or `none` [default: read-only].",
    ),
    optional(
        "username",
        FieldType::Text,
        "The user name next to a token, for tools that require one [default: oauth2accesstoken].",
    ),
];

const FLOW: FieldType = FieldType::Choice(&["auto", "browser", "device"]);
const FLOW_DOC: &str = "How the user signs in: `browser` (PKCE over the loopback), `device` (a code typed on any device), or `auto` [default]: `browser` if one can be opened on this machine.";

const SCOPES_DOC: &str = "Scopes of the token [default: https://www.googleapis.com/auth/cloud-platform].";

const SESSION_SCOPES_DOC: &str = "Scopes of the token of a coding agent's session [default: https://www.googleapis.com/auth/cloud-platform.read-only].";

const TENANT: Field = required("tenant", FieldType::Text, "The tenant's id or domain.");
const APPLICATION: Field = required("client_id", FieldType::Text, "The application's id.");
const ENTRA_SCOPES: Field =
    optional("scopes", FieldType::List, "Scopes of the token [default: https://management.azure.com/.default].");
const AUTHORITY: Field = optional("endpoint", FieldType::Url, "Instead of `https://login.microsoftonline.com`.");
const ENTRA: &[Field] = &[TENANT, APPLICATION, ENTRA_SCOPES, AUTHORITY];
const ENTRA_FEDERATION_FIELDS: &[Field] = &[
    required(
        "from",
        FieldType::Identity,
        "The identity whose token is exchanged; an `oidc` one, usually with `token = \"id\"`.",
    ),
    TENANT,
    APPLICATION,
    ENTRA_SCOPES,
    AUTHORITY,
];

pub const SOURCE_KINDS: &[SourceKind] = &[
    SourceKind {
        name: "exec",
        doc: "Any program that prints credentials as JSON.",
        needs_login: false,
        secret_description: None,
        fields: &[
            required("command", FieldType::List, "The program and its arguments; no shell."),
            optional("timeout", FieldType::Duration, "The program is ended after this time [default: 30s]."),
        ],
    },
    SourceKind {
        name: "static",
        doc: "A secret that does not expire, stored in the vault.",
        needs_login: true,
        secret_description: Some("the secret"),
        fields: &[
            required(
                "kind",
                FieldType::Choice(&["aws", "token", "password"]),
                "The type of the secret: an AWS secret access key, a bearer token, a password.",
            ),
            optional("access_key_id", FieldType::Text, "The public half of an AWS key; needed with `kind = \"aws\"`."),
        ],
    },
    SourceKind {
        name: "oidc",
        doc: "An OpenID Connect provider, with a refresh token stored in the vault.",
        needs_login: true,
        secret_description: None,
        fields: &[
            required("issuer", FieldType::Url, "The provider; `/.well-known/openid-configuration` is below it."),
            required("client_id", FieldType::Text, "The public client that was registered for pdev."),
            optional("scopes", FieldType::List, "The requested scopes [default: openid, offline_access]."),
            optional("flow", FLOW, FLOW_DOC),
            optional(
                "port",
                FieldType::Port,
                "The loopback port of the redirect, if the provider requires a fixed one [default: any].",
            ),
            optional("token", FieldType::Choice(&["access", "id"]), "Which token the tools get [default: access]."),
        ],
    },
    SourceKind {
        name: "aws-sso",
        doc: "AWS IAM Identity Center: a role in an account.",
        needs_login: true,
        secret_description: None,
        fields: &[
            required("start_url", FieldType::Url, "The access portal, `https://NAME.awsapps.com/start`."),
            required("region", FieldType::Text, "The region of Identity Center."),
            required("account", FieldType::Text, "The account's twelve digits."),
            required("role", FieldType::Text, "The permission set."),
            optional("flow", FLOW, FLOW_DOC),
            optional(
                "session",
                FieldType::Text,
                "Identities with the same session share one login [default: the start URL].",
            ),
            optional("oidc_endpoint", FieldType::Url, "Instead of `https://oidc.REGION.amazonaws.com`."),
            optional("portal_endpoint", FieldType::Url, "Instead of `https://portal.sso.REGION.amazonaws.com`."),
        ],
    },
    SourceKind {
        name: "aws-role",
        doc: "An AWS role, assumed by another identity (STS AssumeRole).",
        needs_login: false,
        secret_description: None,
        fields: &[
            required("from", FieldType::Identity, "The identity that assumes the role."),
            required("role_arn", FieldType::Text, "The role."),
            optional("region", FieldType::Text, "The region of STS [default: us-east-1]."),
            optional("session_name", FieldType::Text, "The name of the session in CloudTrail [default: pdev-NAME]."),
            optional("external_id", FieldType::Text, "The external id that a third party's role requires."),
            optional(
                "mfa_serial",
                FieldType::Text,
                "The MFA device that the role requires: `pdev login NAME` asks for its code, once per `duration`. An `aws-session` below the role needs a code less often.",
            ),
            optional("duration", FieldType::Duration, "How long a lease lasts, 15m to 12h [default: 1h]."),
            optional(
                "session_policies",
                FieldType::List,
                "ARNs of the policies that restrict a coding agent's session [default: AWS's `ReadOnlyAccess`].",
            ),
            optional(
                "session_tags",
                FieldType::Flag,
                "Whether a coding agent's session is tagged; the role must allow `sts:TagSession` [default: true].",
            ),
            optional("endpoint", FieldType::Url, "Instead of `https://sts.REGION.amazonaws.com`."),
        ],
    },
    SourceKind {
        name: "aws-session",
        doc: "A session of an AWS user's long-lived keys (STS GetSessionToken), which with an MFA device satisfies roles for a working day.",
        needs_login: false,
        secret_description: None,
        fields: &[
            required(
                "from",
                FieldType::Identity,
                "The identity with the user's keys; usually `static` with `kind = \"aws\"`.",
            ),
            optional(
                "mfa_serial",
                FieldType::Text,
                "The user's MFA device, `arn:aws:iam::ACCOUNT:mfa/NAME`: `pdev login NAME` asks for its code.",
            ),
            optional("region", FieldType::Text, "The region of STS [default: us-east-1]."),
            optional("duration", FieldType::Duration, "How long the session lasts, 15m to 36h [default: 12h]."),
            optional("endpoint", FieldType::Url, "Instead of `https://sts.REGION.amazonaws.com`."),
        ],
    },
    SourceKind {
        name: "aws-web-identity",
        doc: "An AWS role, assumed with another identity's OIDC token (STS AssumeRoleWithWebIdentity).",
        needs_login: false,
        secret_description: None,
        fields: &[
            required(
                "from",
                FieldType::Identity,
                "The identity whose token is exchanged; an `oidc` one, usually with `token = \"id\"`.",
            ),
            required("role_arn", FieldType::Text, "The role."),
            optional("region", FieldType::Text, "The region of STS [default: us-east-1]."),
            optional("session_name", FieldType::Text, "The name of the session in CloudTrail [default: pdev-NAME]."),
            optional("duration", FieldType::Duration, "How long a lease lasts, 15m to 12h [default: 1h]."),
            optional(
                "session_policies",
                FieldType::List,
                "ARNs of the policies that restrict a coding agent's session [default: AWS's `ReadOnlyAccess`].",
            ),
            optional("endpoint", FieldType::Url, "Instead of `https://sts.REGION.amazonaws.com`."),
        ],
    },
    SourceKind {
        name: "google",
        doc: "Google: a service account by its key, or a user by the file of `gcloud auth application-default login`. `pdev login NAME < FILE.json` stores the file's content in the vault.",
        needs_login: true,
        secret_description: Some("the JSON of the key or login"),
        fields: &[
            optional("scopes", FieldType::List, SCOPES_DOC),
            optional("session_scopes", FieldType::List, SESSION_SCOPES_DOC),
            optional(
                "subject",
                FieldType::Text,
                "The user for whom a service account with domain-wide delegation acts.",
            ),
        ],
    },
    SourceKind {
        name: "google-impersonation",
        doc: "A Google service account, impersonated by another identity (IAM Credentials, generateAccessToken).",
        needs_login: false,
        secret_description: None,
        fields: &[
            required("from", FieldType::Identity, "The identity that impersonates it; it must provide a Google token."),
            required("service_account", FieldType::Text, "Its address, `NAME@PROJECT.iam.gserviceaccount.com`."),
            optional("scopes", FieldType::List, SCOPES_DOC),
            optional("session_scopes", FieldType::List, SESSION_SCOPES_DOC),
            optional(
                "duration",
                FieldType::Duration,
                "How long a lease lasts, up to 12h if the project allows it [default: 1h].",
            ),
            optional("endpoint", FieldType::Url, "Instead of `https://iamcredentials.googleapis.com`."),
        ],
    },
    SourceKind {
        name: "google-federation",
        doc: "Google, with another identity's OIDC token (workload identity federation, STS).",
        needs_login: false,
        secret_description: None,
        fields: &[
            required(
                "from",
                FieldType::Identity,
                "The identity whose token is exchanged; an `oidc` one, usually with `token = \"id\"`.",
            ),
            required(
                "audience",
                FieldType::Text,
                "The provider, `//iam.googleapis.com/projects/NUMBER/locations/global/workloadIdentityPools/POOL/providers/PROVIDER`.",
            ),
            optional("scopes", FieldType::List, SCOPES_DOC),
            optional("session_scopes", FieldType::List, SESSION_SCOPES_DOC),
            optional("endpoint", FieldType::Url, "Instead of `https://sts.googleapis.com`."),
        ],
    },
    SourceKind {
        name: "entra",
        doc: "Microsoft Entra: an application with a client secret. For a user, use `oidc` with the tenant's issuer.",
        needs_login: true,
        secret_description: Some("the client secret"),
        fields: ENTRA,
    },
    SourceKind {
        name: "entra-federation",
        doc: "Microsoft Entra: an application with another identity's OIDC token (federated credential).",
        needs_login: false,
        secret_description: None,
        fields: ENTRA_FEDERATION_FIELDS,
    },
    SourceKind {
        name: "vault-server",
        doc: "HashiCorp Vault or OpenBao: the credential at a path: AWS keys, a user and password, or a token.",
        needs_login: true,
        secret_description: Some("the token, or with a `role_id` the secret id"),
        fields: &[
            required("address", FieldType::Url, "The server."),
            required(
                "path",
                FieldType::Text,
                "The path to read: `aws/creds/deploy`, `database/creds/shop`, `kv/data/shop`.",
            ),
            optional("role_id", FieldType::Text, "The role id to sign in by AppRole instead of by a token."),
            optional("mount", FieldType::Text, "The mount path of AppRole [default: approle]."),
            optional("namespace", FieldType::Text, "The namespace."),
        ],
    },
];

#[must_use]
pub fn find_source_kind(name: &str) -> Option<&'static SourceKind> {
    SOURCE_KINDS.iter().find(|kind| kind.name == name)
}

impl SourceKind {
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&'static Field> {
        let own_fields: &'static [Field] = self.fields;
        own_fields.iter().chain(COMMON_FIELDS).find(|field| field.name == name)
    }
}
