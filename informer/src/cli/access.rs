//! The files that a client shows to an informer, and an informer to its clients.

use std::{env, path::PathBuf};

use proto::dial::Access;

use crate::server::Security;

/// Flags that each verb has. A client takes what is missing from `INFORMER_TLS_CA` and so on, an informer from
/// `INFORMER_SERVER_TLS_CA` and so on: with one name for both, a shell set up for clients would make an informer that is started
/// in it demand certificates of everybody.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Files {
    /// Trust an informer whose certificate this CA signed [env: INFORMER_TLS_CA] [default: the CAs of this machine]; with `serve`,
    /// let in only who has a certificate that it signed [env: INFORMER_SERVER_TLS_CA]
    #[arg(long, global = true, value_name = "FILE", help_heading = "TLS and token")]
    tls_ca: Option<PathBuf>,
    /// Show this certificate [env: INFORMER_TLS_CERT; with `serve` INFORMER_SERVER_TLS_CERT]
    #[arg(long, global = true, value_name = "FILE", help_heading = "TLS and token")]
    tls_cert: Option<PathBuf>,
    /// The certificate's key [env: INFORMER_TLS_KEY; with `serve` INFORMER_SERVER_TLS_KEY]
    #[arg(long, global = true, value_name = "FILE", help_heading = "TLS and token")]
    tls_key: Option<PathBuf>,
    /// The token that lets calls in [env: INFORMER_TOKEN_FILE; with `serve` INFORMER_SERVER_TOKEN_FILE]
    #[arg(long, global = true, value_name = "FILE", help_heading = "TLS and token")]
    token_file: Option<PathBuf>,
}

impl Files {
    /// What a client shows and demands.
    pub(crate) fn of_client(self) -> Access {
        let Self { tls_ca, tls_cert, tls_key, token_file } = self.or_environment("INFORMER_");
        Access { tls_ca, tls_cert, tls_key, token_file }
    }

    /// What an informer shows and demands; `configured` is what its file says.
    pub(crate) fn of_server(self, configured: Security) -> Security {
        let Self { tls_ca, tls_cert, tls_key, token_file } = self.or_environment("INFORMER_SERVER_");
        Security {
            tls_ca: tls_ca.or(configured.tls_ca),
            tls_cert: tls_cert.or(configured.tls_cert),
            tls_key: tls_key.or(configured.tls_key),
            token_file: token_file.or(configured.token_file),
        }
    }

    fn or_environment(self, prefix: &str) -> Self {
        // An empty variable is how a unit or a manifest says "none".
        let or = |given: Option<PathBuf>, name| {
            given
                .or_else(|| env::var_os(format!("{prefix}{name}")).filter(|value| !value.is_empty()).map(PathBuf::from))
        };
        Self {
            tls_ca: or(self.tls_ca, "TLS_CA"),
            tls_cert: or(self.tls_cert, "TLS_CERT"),
            tls_key: or(self.tls_key, "TLS_KEY"),
            token_file: or(self.token_file, "TOKEN_FILE"),
        }
    }
}
