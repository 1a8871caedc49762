//! The table of sources: what an identity's `source` may be, and which fields each one takes.
//!
//! Reading, asking, did-you-mean and the reference page all follow this table; nothing else knows the fields' names.

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
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
    pub shape: Shape,
    pub required: bool,
    pub doc: &'static str,
}

#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub name: &'static str,
    pub doc: &'static str,
    /// A person has to do something once (`pdev login`).
    pub login: bool,
    /// What they do is giving a secret: what it is, in words.
    pub secret: Option<&'static str>,
    pub fields: &'static [Field],
}

const fn must(name: &'static str, shape: Shape, doc: &'static str) -> Field {
    Field { name, shape, required: true, doc }
}

const fn may(name: &'static str, shape: Shape, doc: &'static str) -> Field {
    Field { name, shape, required: false, doc }
}

/// Fields that every identity may have.
pub const COMMON: &[Field] = &[
    may("description", Shape::Text, "What it is for, in a few words."),
    may(
        "hosts",
        Shape::List,
        "Servers whose docker, git and cargo requests it answers: `git.example.org`, `*.example.org`, `localhost:5000`.",
    ),
    may(
        "variable",
        Shape::Variable,
        "The variable that holds a token under `pdev run --as`, such as `GITHUB_TOKEN` or `CLOUDSDK_AUTH_ACCESS_TOKEN` [default: PDEV_TOKEN].",
    ),
    may(
        "cloud",
        Shape::Choice(&["aws", "google", "azure"]),
        "Whose SDKs a service with this identity can use [default: aws, where the source may give AWS credentials].",
    ),
    may("project", Shape::Text, "With `cloud = \"google\"`: the project that the metadata server names."),
    may(
        "email",
        Shape::Text,
        "With `cloud = \"google\"`: the service account that the metadata server names [default: default].",
    ),
    may(
        "ask",
        Shape::Choice(&["first-use", "never"]),
        "Whether a person approves each repository's and service's first use [default: first-use].",
    ),
    may(
        "notify",
        Shape::Choice(&["desktop", "never"]),
        "Whether the desktop tells that a person has to sign in [default: desktop].",
    ),
    may(
        "production",
        Shape::Flag,
        "Whether it is production, of which a coding agent's session gets nothing [default: false].",
    ),
    may(
        "sessions",
        Shape::Choice(&["read-only", "full", "none"]),
        "What a coding agent's session gets of it: less, where the source can give less, and else nothing; all; nothing [default: read-only].",
    ),
    may("username", Shape::Text, "The user name beside a token where a tool wants one [default: oauth2accesstoken]."),
];

const FLOW: Shape = Shape::Choice(&["auto", "browser", "device"]);
const FLOW_DOC: &str = "How a person signs in: `browser` (PKCE over the loopback), `device` (a code typed elsewhere), or `auto` [default]: browser where one can be opened here.";

const SCOPES_DOC: &str = "What the token is for [default: https://www.googleapis.com/auth/cloud-platform].";

const SESSION_SCOPES_DOC: &str = "What the token of a coding agent's session is for [default: https://www.googleapis.com/auth/cloud-platform.read-only].";

const TENANT: Field = must("tenant", Shape::Text, "The tenant's id or domain.");
const APPLICATION: Field = must("client_id", Shape::Text, "The application's id.");
const RESOURCE: Field =
    may("scopes", Shape::List, "What the token is for [default: https://management.azure.com/.default].");
const AUTHORITY: Field = may("endpoint", Shape::Url, "Instead of `https://login.microsoftonline.com`.");
const ENTRA: &[Field] = &[TENANT, APPLICATION, RESOURCE, AUTHORITY];
const ENTRA_FROM: &[Field] = &[
    must("from", Shape::Identity, "The identity whose token is shown; an `oidc` one, usually with `token = \"id\"`."),
    TENANT,
    APPLICATION,
    RESOURCE,
    AUTHORITY,
];

pub const KINDS: &[Kind] = &[
    Kind {
        name: "exec",
        doc: "Any program that prints credentials as JSON.",
        login: false,
        secret: None,
        fields: &[
            must("command", Shape::List, "The program and its arguments; no shell."),
            may("timeout", Shape::Duration, "It is ended after this long [default: 30s]."),
        ],
    },
    Kind {
        name: "static",
        doc: "A secret that does not expire, kept in the vault.",
        login: true,
        secret: Some("the secret"),
        fields: &[
            must(
                "kind",
                Shape::Choice(&["aws", "token", "password"]),
                "What the secret is: an AWS secret access key, a bearer token, a password.",
            ),
            may("access_key_id", Shape::Text, "The public half of an AWS key; needed with `kind = \"aws\"`."),
        ],
    },
    Kind {
        name: "oidc",
        doc: "An OpenID Connect provider, with a refresh token kept in the vault.",
        login: true,
        secret: None,
        fields: &[
            must("issuer", Shape::Url, "The provider; `/.well-known/openid-configuration` is below it."),
            must("client_id", Shape::Text, "The public client that was registered for pdev."),
            may("scopes", Shape::List, "What is asked for [default: openid, offline_access]."),
            may("flow", FLOW, FLOW_DOC),
            may(
                "port",
                Shape::Port,
                "The loopback port of the browser's answer, where the provider wants a fixed one [default: any].",
            ),
            may("token", Shape::Choice(&["access", "id"]), "Which token the tools get [default: access]."),
        ],
    },
    Kind {
        name: "aws-sso",
        doc: "AWS IAM Identity Center: a role in an account.",
        login: true,
        secret: None,
        fields: &[
            must("start_url", Shape::Url, "The access portal, `https://NAME.awsapps.com/start`."),
            must("region", Shape::Text, "Where Identity Center lives."),
            must("account", Shape::Text, "The account's twelve digits."),
            must("role", Shape::Text, "The permission set."),
            may("flow", FLOW, FLOW_DOC),
            may("session", Shape::Text, "Identities with the same session share one login [default: the start URL]."),
            may("oidc_endpoint", Shape::Url, "Instead of `https://oidc.REGION.amazonaws.com`."),
            may("portal_endpoint", Shape::Url, "Instead of `https://portal.sso.REGION.amazonaws.com`."),
        ],
    },
    Kind {
        name: "aws-role",
        doc: "An AWS role, assumed by another identity (STS AssumeRole).",
        login: false,
        secret: None,
        fields: &[
            must("from", Shape::Identity, "The identity that assumes the role."),
            must("role_arn", Shape::Text, "The role."),
            may("region", Shape::Text, "Whose STS is asked [default: us-east-1]."),
            may("session_name", Shape::Text, "How the session is called in CloudTrail [default: pdev-NAME]."),
            may("external_id", Shape::Text, "What a third party's role wants to hear."),
            may(
                "mfa_serial",
                Shape::Text,
                "The MFA device the role wants: `pdev login NAME` asks for its code, and a lease then lasts its `duration`; an `aws-session` below it is asked less often.",
            ),
            may("duration", Shape::Duration, "How long a lease lasts, 15m to 12h [default: 1h]."),
            may(
                "session_policies",
                Shape::List,
                "ARNs of the policies that a coding agent's session is held to [default: AWS's `ReadOnlyAccess`].",
            ),
            may(
                "session_tags",
                Shape::Flag,
                "Whether a coding agent's session is tagged; the role must allow `sts:TagSession` [default: true].",
            ),
            may("endpoint", Shape::Url, "Instead of `https://sts.REGION.amazonaws.com`."),
        ],
    },
    Kind {
        name: "aws-session",
        doc: "A session of an AWS user's long-lived keys (STS GetSessionToken), with an MFA device one that roles accept for a working day.",
        login: false,
        secret: None,
        fields: &[
            must("from", Shape::Identity, "The identity with the user's keys; usually `static` with `kind = \"aws\"`."),
            may(
                "mfa_serial",
                Shape::Text,
                "The user's MFA device, `arn:aws:iam::ACCOUNT:mfa/NAME`: `pdev login NAME` asks for its code.",
            ),
            may("region", Shape::Text, "Whose STS is asked [default: us-east-1]."),
            may("duration", Shape::Duration, "How long the session lasts, 15m to 36h [default: 12h]."),
            may("endpoint", Shape::Url, "Instead of `https://sts.REGION.amazonaws.com`."),
        ],
    },
    Kind {
        name: "aws-web-identity",
        doc: "An AWS role for another identity's OIDC token (STS AssumeRoleWithWebIdentity).",
        login: false,
        secret: None,
        fields: &[
            must(
                "from",
                Shape::Identity,
                "The identity whose token is shown; an `oidc` one, usually with `token = \"id\"`.",
            ),
            must("role_arn", Shape::Text, "The role."),
            may("region", Shape::Text, "Whose STS is asked [default: us-east-1]."),
            may("session_name", Shape::Text, "How the session is called in CloudTrail [default: pdev-NAME]."),
            may("duration", Shape::Duration, "How long a lease lasts, 15m to 12h [default: 1h]."),
            may(
                "session_policies",
                Shape::List,
                "ARNs of the policies that a coding agent's session is held to [default: AWS's `ReadOnlyAccess`].",
            ),
            may("endpoint", Shape::Url, "Instead of `https://sts.REGION.amazonaws.com`."),
        ],
    },
    Kind {
        name: "google",
        doc: "Google: a service account by its key, or a user by what `gcloud auth application-default login` wrote. `pdev login NAME < FILE.json` keeps the file's content in the vault.",
        login: true,
        secret: Some("the JSON of the key or login"),
        fields: &[
            may("scopes", Shape::List, SCOPES_DOC),
            may("session_scopes", Shape::List, SESSION_SCOPES_DOC),
            may("subject", Shape::Text, "The user for whom a service account with domain-wide delegation acts."),
        ],
    },
    Kind {
        name: "google-impersonation",
        doc: "A Google service account, impersonated by another identity (IAM Credentials, generateAccessToken).",
        login: false,
        secret: None,
        fields: &[
            must("from", Shape::Identity, "The identity that impersonates it; it gives a Google token."),
            must("service_account", Shape::Text, "Its address, `NAME@PROJECT.iam.gserviceaccount.com`."),
            may("scopes", Shape::List, SCOPES_DOC),
            may("session_scopes", Shape::List, SESSION_SCOPES_DOC),
            may(
                "duration",
                Shape::Duration,
                "How long a lease lasts, up to 12h where the project allows it [default: 1h].",
            ),
            may("endpoint", Shape::Url, "Instead of `https://iamcredentials.googleapis.com`."),
        ],
    },
    Kind {
        name: "google-federation",
        doc: "Google by another identity's OIDC token (workload identity federation, STS).",
        login: false,
        secret: None,
        fields: &[
            must(
                "from",
                Shape::Identity,
                "The identity whose token is shown; an `oidc` one, usually with `token = \"id\"`.",
            ),
            must(
                "audience",
                Shape::Text,
                "The provider, `//iam.googleapis.com/projects/NUMBER/locations/global/workloadIdentityPools/POOL/providers/PROVIDER`.",
            ),
            may("scopes", Shape::List, SCOPES_DOC),
            may("session_scopes", Shape::List, SESSION_SCOPES_DOC),
            may("endpoint", Shape::Url, "Instead of `https://sts.googleapis.com`."),
        ],
    },
    Kind {
        name: "entra",
        doc: "Microsoft Entra: an application with a client secret. For a person, use `oidc` with the tenant's issuer.",
        login: true,
        secret: Some("the client secret"),
        fields: ENTRA,
    },
    Kind {
        name: "entra-federation",
        doc: "Microsoft Entra: an application by another identity's OIDC token (federated credential).",
        login: false,
        secret: None,
        fields: ENTRA_FROM,
    },
    Kind {
        name: "vault-server",
        doc: "HashiCorp Vault or OpenBao: what a path of it gives, AWS keys, a user and password, or a token.",
        login: true,
        secret: Some("the token, or with a `role_id` the secret id"),
        fields: &[
            must("address", Shape::Url, "The server."),
            must("path", Shape::Text, "What is read: `aws/creds/deploy`, `database/creds/shop`, `kv/data/shop`."),
            may("role_id", Shape::Text, "Signs in by AppRole instead of by a token."),
            may("mount", Shape::Text, "Where AppRole is mounted [default: approle]."),
            may("namespace", Shape::Text, "The namespace."),
        ],
    },
];

#[must_use]
pub fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

impl Kind {
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&'static Field> {
        let own: &'static [Field] = self.fields;
        own.iter().chain(COMMON).find(|field| field.name == name)
    }
}
