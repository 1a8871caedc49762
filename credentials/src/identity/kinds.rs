//! The table of sources: what an identity's `source` may be, and which fields each one takes.
//!
//! Reading, asking, did-you-mean and the reference page all follow this table; nothing else knows the fields' names.

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
    /// A person has to do something once (`pdev login`).
    pub needs_login: bool,
    /// What they do is giving a secret: what it is, in words.
    pub secret_description: Option<&'static str>,
    pub fields: &'static [Field],
}

const fn required(name: &'static str, shape: FieldType, doc: &'static str) -> Field {
    Field { name, field_type: shape, is_required: true, doc }
}

const fn optional(name: &'static str, shape: FieldType, doc: &'static str) -> Field {
    Field { name, field_type: shape, is_required: false, doc }
}

/// Fields that every identity may have.
pub const COMMON_FIELDS: &[Field] = &[
    optional("description", FieldType::Text, "What it is for, in a few words."),
    optional(
        "hosts",
        FieldType::List,
        "Servers whose docker, git and cargo requests it answers: `git.example.org`, `*.example.org`, `localhost:5000`.",
    ),
    optional(
        "variable",
        FieldType::Variable,
        "The variable that holds a token under `pdev run --as`, such as `GITHUB_TOKEN` or `CLOUDSDK_AUTH_ACCESS_TOKEN` [default: PDEV_TOKEN].",
    ),
    optional(
        "cloud",
        FieldType::Choice(&["aws", "google", "azure"]),
        "Whose SDKs a service with this identity can use [default: aws, where the source may give AWS credentials].",
    ),
    optional("project", FieldType::Text, "With `cloud = \"google\"`: the project that the metadata server names."),
    optional(
        "email",
        FieldType::Text,
        "With `cloud = \"google\"`: the service account that the metadata server names [default: default].",
    ),
    optional(
        "ask",
        FieldType::Choice(&["first-use", "never"]),
        "Whether a person approves each repository's and service's first use [default: first-use].",
    ),
    optional(
        "notify",
        FieldType::Choice(&["desktop", "never"]),
        "Whether the desktop tells that a person has to sign in [default: desktop].",
    ),
    optional(
        "production",
        FieldType::Flag,
        "Whether it is production, of which a coding agent's session gets nothing [default: false].",
    ),
    optional(
        "sessions",
        FieldType::Choice(&["read-only", "full", "none"]),
        "What a coding agent's session gets of it: less, where the source can give less, and else nothing; all; nothing [default: read-only].",
    ),
    optional(
        "username",
        FieldType::Text,
        "The user name beside a token where a tool wants one [default: oauth2accesstoken].",
    ),
];

const FLOW: FieldType = FieldType::Choice(&["auto", "browser", "device"]);
const FLOW_DOC: &str = "How a person signs in: `browser` (PKCE over the loopback), `device` (a code typed elsewhere), or `auto` [default]: browser where one can be opened here.";

const SCOPES_DOC: &str = "What the token is for [default: https://www.googleapis.com/auth/cloud-platform].";

const SESSION_SCOPES_DOC: &str = "What the token of a coding agent's session is for [default: https://www.googleapis.com/auth/cloud-platform.read-only].";

const TENANT: Field = required("tenant", FieldType::Text, "The tenant's id or domain.");
const APPLICATION: Field = required("client_id", FieldType::Text, "The application's id.");
const ENTRA_SCOPES: Field =
    optional("scopes", FieldType::List, "What the token is for [default: https://management.azure.com/.default].");
const AUTHORITY: Field = optional("endpoint", FieldType::Url, "Instead of `https://login.microsoftonline.com`.");
const ENTRA: &[Field] = &[TENANT, APPLICATION, ENTRA_SCOPES, AUTHORITY];
const ENTRA_FEDERATION_FIELDS: &[Field] = &[
    required(
        "from",
        FieldType::Identity,
        "The identity whose token is shown; an `oidc` one, usually with `token = \"id\"`.",
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
            optional("timeout", FieldType::Duration, "It is ended after this long [default: 30s]."),
        ],
    },
    SourceKind {
        name: "static",
        doc: "A secret that does not expire, kept in the vault.",
        needs_login: true,
        secret_description: Some("the secret"),
        fields: &[
            required(
                "kind",
                FieldType::Choice(&["aws", "token", "password"]),
                "What the secret is: an AWS secret access key, a bearer token, a password.",
            ),
            optional("access_key_id", FieldType::Text, "The public half of an AWS key; needed with `kind = \"aws\"`."),
        ],
    },
    SourceKind {
        name: "oidc",
        doc: "An OpenID Connect provider, with a refresh token kept in the vault.",
        needs_login: true,
        secret_description: None,
        fields: &[
            required("issuer", FieldType::Url, "The provider; `/.well-known/openid-configuration` is below it."),
            required("client_id", FieldType::Text, "The public client that was registered for pdev."),
            optional("scopes", FieldType::List, "What is asked for [default: openid, offline_access]."),
            optional("flow", FLOW, FLOW_DOC),
            optional(
                "port",
                FieldType::Port,
                "The loopback port of the browser's answer, where the provider wants a fixed one [default: any].",
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
            required("region", FieldType::Text, "Where Identity Center lives."),
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
            optional("region", FieldType::Text, "Whose STS is asked [default: us-east-1]."),
            optional("session_name", FieldType::Text, "How the session is called in CloudTrail [default: pdev-NAME]."),
            optional("external_id", FieldType::Text, "What a third party's role wants to hear."),
            optional(
                "mfa_serial",
                FieldType::Text,
                "The MFA device the role wants: `pdev login NAME` asks for its code, and a lease then lasts its `duration`; an `aws-session` below it is asked less often.",
            ),
            optional("duration", FieldType::Duration, "How long a lease lasts, 15m to 12h [default: 1h]."),
            optional(
                "session_policies",
                FieldType::List,
                "ARNs of the policies that a coding agent's session is held to [default: AWS's `ReadOnlyAccess`].",
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
        doc: "A session of an AWS user's long-lived keys (STS GetSessionToken), with an MFA device one that roles accept for a working day.",
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
            optional("region", FieldType::Text, "Whose STS is asked [default: us-east-1]."),
            optional("duration", FieldType::Duration, "How long the session lasts, 15m to 36h [default: 12h]."),
            optional("endpoint", FieldType::Url, "Instead of `https://sts.REGION.amazonaws.com`."),
        ],
    },
    SourceKind {
        name: "aws-web-identity",
        doc: "An AWS role for another identity's OIDC token (STS AssumeRoleWithWebIdentity).",
        needs_login: false,
        secret_description: None,
        fields: &[
            required(
                "from",
                FieldType::Identity,
                "The identity whose token is shown; an `oidc` one, usually with `token = \"id\"`.",
            ),
            required("role_arn", FieldType::Text, "The role."),
            optional("region", FieldType::Text, "Whose STS is asked [default: us-east-1]."),
            optional("session_name", FieldType::Text, "How the session is called in CloudTrail [default: pdev-NAME]."),
            optional("duration", FieldType::Duration, "How long a lease lasts, 15m to 12h [default: 1h]."),
            optional(
                "session_policies",
                FieldType::List,
                "ARNs of the policies that a coding agent's session is held to [default: AWS's `ReadOnlyAccess`].",
            ),
            optional("endpoint", FieldType::Url, "Instead of `https://sts.REGION.amazonaws.com`."),
        ],
    },
    SourceKind {
        name: "google",
        doc: "Google: a service account by its key, or a user by what `gcloud auth application-default login` wrote. `pdev login NAME < FILE.json` keeps the file's content in the vault.",
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
            required("from", FieldType::Identity, "The identity that impersonates it; it gives a Google token."),
            required("service_account", FieldType::Text, "Its address, `NAME@PROJECT.iam.gserviceaccount.com`."),
            optional("scopes", FieldType::List, SCOPES_DOC),
            optional("session_scopes", FieldType::List, SESSION_SCOPES_DOC),
            optional(
                "duration",
                FieldType::Duration,
                "How long a lease lasts, up to 12h where the project allows it [default: 1h].",
            ),
            optional("endpoint", FieldType::Url, "Instead of `https://iamcredentials.googleapis.com`."),
        ],
    },
    SourceKind {
        name: "google-federation",
        doc: "Google by another identity's OIDC token (workload identity federation, STS).",
        needs_login: false,
        secret_description: None,
        fields: &[
            required(
                "from",
                FieldType::Identity,
                "The identity whose token is shown; an `oidc` one, usually with `token = \"id\"`.",
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
        doc: "Microsoft Entra: an application with a client secret. For a person, use `oidc` with the tenant's issuer.",
        needs_login: true,
        secret_description: Some("the client secret"),
        fields: ENTRA,
    },
    SourceKind {
        name: "entra-federation",
        doc: "Microsoft Entra: an application by another identity's OIDC token (federated credential).",
        needs_login: false,
        secret_description: None,
        fields: ENTRA_FEDERATION_FIELDS,
    },
    SourceKind {
        name: "vault-server",
        doc: "HashiCorp Vault or OpenBao: what a path of it gives, AWS keys, a user and password, or a token.",
        needs_login: true,
        secret_description: Some("the token, or with a `role_id` the secret id"),
        fields: &[
            required("address", FieldType::Url, "The server."),
            required(
                "path",
                FieldType::Text,
                "What is read: `aws/creds/deploy`, `database/creds/shop`, `kv/data/shop`.",
            ),
            optional("role_id", FieldType::Text, "Signs in by AppRole instead of by a token."),
            optional("mount", FieldType::Text, "Where AppRole is mounted [default: approle]."),
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
        let own: &'static [Field] = self.fields;
        own.iter().chain(COMMON_FIELDS).find(|field| field.name == name)
    }
}
