use super::*;
use std::os::unix::fs::PermissionsExt as _;

/// A directory that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("dial-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn file(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn refused(url: &str, access: Access) -> String {
    Dial::new(url.parse().unwrap(), access).unwrap_err().to_string()
}

#[test]
fn a_token_stays_on_the_machine_or_is_encrypted() {
    let folder = Folder::new("plain");
    let token_file = Some(folder.file("token", "0123456789abcdef\n", 0o600));
    let access = Access { token_file, ..Access::default() };
    for url in ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1"] {
        assert!(Dial::new(url.parse().unwrap(), access.clone()).is_ok(), "{url}");
    }
    let why = refused("http://10.1.2.3:7070", access);
    assert!(why.contains("is not sent to http://10.1.2.3:7070") && why.contains("use https://"), "{why}");
}

#[test]
fn a_file_that_cannot_be_used_is_told_with_what_helps() {
    let folder = Folder::new("files");
    let token = |text: &str, mode| {
        let token_file = Some(folder.file("token", text, mode));
        refused("http://127.0.0.1:1", Access { token_file, ..Access::default() })
    };
    let open = token("0123456789abcdef", 0o644);
    assert!(open.contains("(mode 0644); run `chmod 600 ") && open.ends_with("/token`"), "{open}");
    assert!(token("short", 0o600).contains("16 to 512"));
    assert!(token("0123456789 abcdef", 0o600).contains("without spaces"));
    let url = "https://127.0.0.1:1";
    let missing = Access { tls_ca: Some(folder.0.join("none.pem")), ..Access::default() };
    assert!(refused(url, missing).contains("none.pem: no such file"));
    let empty = Access { tls_ca: Some(folder.file("ca.pem", "", 0o644)), ..Access::default() };
    assert!(refused(url, empty).contains("no certificate in it"));
    let half = Access { tls_cert: Some(folder.0.join("c.pem")), ..Access::default() };
    assert!(refused(url, half).contains("belong together"));
}

#[test]
fn a_new_token_reaches_connections_that_are_open() {
    use tonic::service::Interceptor as _;
    let folder = Folder::new("replaced");
    let path = folder.file("token", "0123456789abcdef", 0o600);
    let access = Access { token_file: Some(path.clone()), ..Access::default() };
    let dial = Dial::new("http://127.0.0.1:1".parse().unwrap(), access).unwrap();
    let mut bearer = dial.bearer.clone();
    let mut sent = || {
        let request = bearer.call(Request::new(())).unwrap();
        request.metadata().get("authorization").unwrap().to_str().unwrap().to_owned()
    };
    assert_eq!(sent(), "Bearer 0123456789abcdef");
    std::fs::write(path, "fedcba9876543210").unwrap();
    dial.prepare().unwrap();
    assert_eq!(sent(), "Bearer fedcba9876543210");
}
