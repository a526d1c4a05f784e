use super::*;

fn resolve(url: &str, environment: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    Settings::resolve(Some(url), &|name| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
}

#[test]
fn environment_fills_what_the_url_leaves_out() {
    let environment = [("PGHOST", "db"), ("PGPORT", "6000"), ("PGUSER", "app"), ("PGPASSWORD", "x"), ("PGDATABASE", "shop")];
    let settings = resolve("", &environment).unwrap();
    assert_eq!(settings.summary(), "app@db:6000/shop");
    assert_eq!(settings.password(), Some("x"));
    let settings = resolve("postgres://me:secret@other/sales", &environment).unwrap();
    assert_eq!(settings.summary(), "me@other:6000/sales");
    assert_eq!(settings.password(), Some("secret"));
}

#[test]
fn tls_parameters() {
    let settings = resolve("postgres://a@b/c?sslmode=verify-full&sslrootcert=/x%20y.pem&application_name=z", &[]).unwrap();
    assert_eq!(settings.tls_mode(), TlsMode::VerifyFull);
    assert_eq!(settings.resolved.tls.root.as_deref(), Some(Path::new("/x y.pem")));
    assert_eq!(resolve("host=b user=a", &[("PGSSLMODE", "disable")]).unwrap().tls_mode(), TlsMode::Disable);
    assert!(resolve("postgres://a@b/c?sslmode=maybe", &[]).unwrap_err().message.contains("unknown sslmode"));
}

#[test]
fn lists_of_hosts() {
    let summary = |text: &str| resolve(text, &[]).map_or_else(|error| error.message, |settings| settings.summary());
    assert_eq!(summary("postgres://u@a,b:6000,[::1]/d"), "u@a:5432,b:6000,::1:5432/d");
    assert_eq!(summary("host=a,b port=6000 user=u"), "u@a:6000,b:6000/u");
    assert_eq!(summary("host=a,b port=6000,6001 user=u"), "u@a:6000,b:6001/u");
    assert_eq!(summary("host=a,b port=1,2,3 user=u"), "3 ports for 2 hosts");
    assert_eq!(summary("host=a,b hostaddr=127.0.0.1 user=u"), "2 host names and 1 hostaddr values");
    assert_eq!(summary("hostaddr=127.0.0.1 user=u"), "u@127.0.0.1:5432/u");
    assert_eq!(summary("host=/run/x,b user=u"), "u@/run/x/.s.PGSQL.5432,b:5432/u");
}

#[test]
fn what_is_not_supported_says_what_to_use() {
    let error = resolve("host=a user=u require_auth=scram-sha-256", &[]).unwrap_err();
    assert!(error.message.contains("require_auth (PGREQUIREAUTH) is not supported"), "{error}");
    assert!(error.help.is_some_and(|help| help.contains("channel_binding=require")));
    assert!(resolve("host=a user=u gssencmode=prefer", &[]).is_ok());
    assert!(
        resolve("host=a user=u", &[("PGGSSENCMODE", "require")]).unwrap_err().help.is_some_and(|help| help.contains("sslmode"))
    );
    assert!(resolve("host=a usre=u", &[]).unwrap_err().message.contains("unknown parameter \"usre\""));
    assert!(resolve("host=a user=u ssl_min_protocol_version=TLSv1.3", &[]).is_ok());
    assert!(resolve("host=a user=u target_session_attrs=primary", &[]).is_ok());
}

#[test]
fn files_are_read_again() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = std::env::temp_dir().join(format!("lockstep-settings-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path.display().to_string()
    };
    let passfile = file("pgpass", "b:*:*:*:of b\n*:*:*:*:first\n");
    let services = file("services", "[shop]\nhost=a,b\nuser=u\nport=6000\ndbname=shop\n");
    let environment = [("PGSERVICEFILE", services.as_str()), ("PGPASSFILE", passfile.as_str()), ("PGSERVICE", "shop")];
    let settings = resolve("port=7000", &environment).unwrap();
    assert_eq!(settings.summary(), "u@a:7000,b:7000/shop");
    let passwords = |settings: &Settings| {
        settings.fresh().unwrap().hosts.into_iter().map(|host| host.password).collect::<Vec<Option<String>>>()
    };
    assert_eq!(passwords(&settings), [Some("first".to_owned()), Some("of b".to_owned())]);
    file("pgpass", "*:*:*:*:second\n");
    file("services", "[shop]\nhost=c\nuser=u\n");
    assert_eq!(passwords(&settings), [Some("second".to_owned())]);
    assert!(resolve("service=other", &environment).unwrap_err().message.contains("there is no service \"other\""));
    let alone = file("password", "p w\n");
    let settings = Settings::resolve_with_password_file(Some("host=h user=u"), Some(PathBuf::from(alone)), &|_| None).unwrap();
    assert_eq!(settings.password(), Some("p w"));
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn the_password_is_never_shown() {
    let settings = resolve("postgres://me:hush@h/d", &[]).unwrap();
    assert!(!format!("{settings:?}").contains("hush"));
    assert_ne!(format!("{settings:?}"), format!("{:?}", resolve("postgres://me:other@h/d", &[]).unwrap()));
    let error = resolve("postgres://me:hush@h:port/d", &[]).unwrap_err();
    assert!(!error.message.contains("hush"), "{}", error.message);
}
