use super::*;

fn load(file: &str, variables: &[(&str, &str)], flags: &Layers) -> Outcome<Settings> {
    let file = (!file.is_empty()).then(|| (PathBuf::from(FILE), file.to_owned()));
    let variables = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    Settings::layered(file, variables, flags)
}

fn refused(file: &str, variables: &[(&str, &str)]) -> String {
    let failure = load(file, variables, &Layers::default()).unwrap_err();
    assert_eq!(failure.exit, Exit::Data, "{failure}");
    failure.message
}

#[test]
fn nothing_written_is_enough() {
    let settings = load("", &[], &Layers::default()).unwrap();
    assert_eq!(settings.server, Server::default());
    assert_eq!(settings.server.listen, "127.0.0.1:8080");
}

#[test]
fn flags_override_the_environment_that_overrides_the_file() {
    let file = "[server]\nlisten = \"file\"\ncontrol = \"file\"\nbaas = \"file\"\n";
    let variables = [("FAAS_SERVER_CONTROL", "variable"), ("FAAS_SERVER_BAAS", "variable")];
    let flags = Layers { baas: Some("flag".into()), ..Layers::default() };
    let server = load(file, &variables, &flags).unwrap().server;
    assert_eq!([server.listen, server.control, server.baas], ["file", "variable", "flag"]);
}

#[test]
fn variables_reach_every_section_in_the_units_of_the_file() {
    let variables = [
        ("FAAS_SERVER_GRACE", "5s"),
        ("FAAS_SERVER_LOG_FORMAT", "json"),
        ("FAAS_SERVER_WORKERS", "3"),
        ("FAAS_CONTROL_CODE_BYTES_MAX", "2MiB"),
        ("FAAS_AMQP_BROKERS__DEFAULT__URL", "amqp://h"),
        ("HOME", "elsewhere"),
        ("FAAS_TOKEN", "not a setting"),
        ("FAAS_URL", "not a setting"),
    ];
    let settings = load("", &variables, &Layers::default()).unwrap();
    assert_eq!(settings.server.grace, Millis::seconds(5));
    assert_eq!(settings.server.log_format, LogFormat::Json);
    assert_eq!(settings.server.workers, 3);
    assert_eq!(settings.control.code_bytes_max.0, 2 << 20);
    assert!(settings.to_toml().contains("h:5672"));
}

#[test]
fn text_that_looks_like_a_number_stays_text() {
    for (given, password) in [("0123", "0123"), ("true", "true"), ("[1]", "[1]"), ("plain", "plain"), ("\"1\"", "1")] {
        let settings = load("", &[("FAAS_CASSANDRA_PASSWORD", given)], &Layers::default()).unwrap();
        assert_eq!(settings.cassandra.password, password);
    }
}

#[test]
fn unknown_keys_are_errors_that_name_their_origin_and_the_nearest_key() {
    let message = refused("[server]\nlistn = \"x\"\n", &[]);
    for part in ["unknown field `listn`", "did you mean `listen`?", FILE] {
        assert!(message.contains(part), "{message}");
    }
    let message = refused("", &[("FAAS_SERVER_LISTN", "x")]);
    for part in ["did you mean `listen`?", "FAAS_SERVER_LISTN"] {
        assert!(message.contains(part), "{message}");
    }
    assert!(refused("[sever]\n", &[]).contains("did you mean `server`?"));
    assert!(refused("", &[("FAAS_SEVER_LISTEN", "x")]).contains("did you mean `server`?"));
}

#[test]
fn wrong_types_and_broken_files_say_where() {
    let message = refused("[server]\ngrace = \"soon\"\n", &[]);
    assert!(message.contains("server.grace") && message.contains(FILE), "{message}");
    assert!(refused("[server\n", &[]).contains(FILE));
    assert!(refused("", &[("FAAS_SERVER_WORKERS", "many")]).contains("FAAS_SERVER_WORKERS"));
}

#[test]
fn no_password_is_printed() {
    let flags = Layers { amqp_url: Some("amqp://me:c4nary@host:5672/%2f".into()), ..Layers::default() };
    let settings = load("", &[], &flags).unwrap();
    let text = settings.to_toml();
    assert!(text.contains("amqp://me:***@host:5672"), "{text}");
    assert!(!text.contains("c4nary"), "{text}");
    assert!(!format!("{:?}", settings.amqp).contains("c4nary"), "debug output is printed as well");
}

#[test]
fn no_error_quotes_a_password() {
    let url = "amqp://me:c4nary@host:5672";
    let texts = [
        format!("[amqp.brokers.default]\nurl = \"{url}\n"),
        format!("[amqp.brokers.default]\nurl = {url}\n"),
        format!("[amqp.brokers.default]\nurl = '{url}' x\n"),
        format!("[amqp.brokers.default]\nurl = '{url}'\nurl = '{url}'\n"),
        format!("[amqp.brokers.default]\nurl = ['{url}']\n"),
        format!("[amqp.brokers.default]\nurl = 'x{url}'\n"),
        format!("[amqp.brokers.default]\nurl = 'amqp://h'\nheartbeat_s = '{url}'\nconnect_timeout = '{url}'\n"),
        format!("[amqp.brokers.default]\nurl = 'amqp://h'\nconnect_timeout = '{url}'\n"),
        format!("[amqp.brokers]\ndefault = '{url}'\n"),
        format!("[amqp]\nbrokers = '{url}'\n"),
        format!("amqp = '{url}'\n"),
    ];
    for text in texts {
        let message = refused(&text, &[]);
        assert!(!message.contains("c4nary") && message.contains(FILE), "{text}: {message}");
    }
    let variables = ["FAAS_AMQP_BROKERS", "FAAS_AMQP_BROKERS__DEFAULT", "FAAS_AMQP_BROKERS__DEFAULT__HEARTBEAT_S"];
    for variable in variables {
        let message = refused("", &[(variable, url)]);
        assert!(!message.contains("c4nary") && message.contains(variable), "{message}");
    }
    let message = refused("[server]\nlisten = 'x'\n[amqp.brokers.default]\nurl = \"é\" x\n", &[]);
    assert!(message.contains("line 4, column 11"), "{message}");
}

#[test]
fn the_printed_whole_reads_back() {
    let text = load("", &[], &Layers::default()).unwrap().to_toml();
    let again = load(&text, &[], &Layers::default()).unwrap();
    assert_eq!(again.to_toml(), text);
}
