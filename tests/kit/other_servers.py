"""Every option of other servers, typed to everycore, and what becomes of it.

A line is what is typed. `ours`: a setting of everycore and its value. `engine`: an argument of the engine.
`says`: how the answer begins. `command`: the same as `everycore WORD`. `own`: a command of everycore. `file`:
it names the settings file. `prints`: it prints and ends. Versions: uvicorn 0.54, gunicorn 27.0, granian 2.8,
hypercorn 0.18, waitress 3.0, PM2 7.0.
"""

UVICORN = """
--host 10.0.0.1 | ours | host | '10.0.0.1'
--port 81 | ours | port | 81
--uds /run/x | ours | uds | '/run/x'
--fd 3 | ours | fd | 3
--reload | ours | reload | True
--reload-dir / | ours | reload_dir | ('/',)
--reload-include *.html | ours | reload_include | ('*.html',)
--reload-exclude x | ours | reload_exclude | ('x',)
--reload-delay 1 | ours | reload_delay | 1.0
--workers 3 | ours | workers | 3
--loop asyncio | ours | loop | 'asyncio'
--http x | engine | http | 'x'
--http2 | engine | http2 | True
--ws x | engine | ws | 'x'
--ws-max-size 3 | engine | ws_max_size | 3
--ws-max-queue 3 | engine | ws_max_queue | 3
--ws-ping-interval 3.5 | engine | ws_ping_interval | 3.5
--ws-ping-timeout 3.5 | engine | ws_ping_timeout | 3.5
--ws-per-message-deflate false | engine | ws_per_message_deflate | False
--lifespan off | ours | lifespan | 'off'
--interface asgi3 | ours | interface | 'asgi3'
--env-file /dev/null | ours | env_file | '/dev/null'
--log-config /dev/null | ours | log_config | '/dev/null'
--log-level trace | ours | log_level | 'trace'
--access-log | ours | access_log | True
--use-colors | says | everycore writes no colours; a formatter
--proxy-headers | engine | proxy_headers | True
--server-header | engine | server_header | True
--date-header | engine | date_header | True
--forwarded-allow-ips x | engine | forwarded_allow_ips | 'x'
--root-path x | engine | root_path | 'x'
--limit-concurrency 3 | engine | limit_concurrency | 3
--backlog 64 | ours | backlog | 64
--limit-max-requests 30 | ours | max_requests | 30
--limit-max-requests-jitter 3 | ours | max_requests_jitter | 3
--timeout-keep-alive 3 | engine | timeout_keep_alive | 3
--timeout-graceful-shutdown 7 | ours | grace | 7.0
--timeout-worker-healthcheck | says | the option is --stall-kill here, in seco
--ssl-keyfile /dev/null --ssl-certfile /dev/null | engine | ssl_keyfile | '/dev/null'
--ssl-certfile /dev/null | engine | ssl_certfile | '/dev/null'
--ssl-keyfile-password x | engine | ssl_keyfile_password | 'x'
--ssl-version 3 | engine | ssl_version | 3
--ssl-cert-reqs 3 | engine | ssl_cert_reqs | 3
--ssl-ca-certs /dev/null | engine | ssl_ca_certs | '/dev/null'
--ssl-ciphers x | engine | ssl_ciphers | 'x'
--header X-A:b | engine | headers | ('X-A:b',)
--version | prints
--app-dir / | ours | app_dir | '/'
--h11-max-incomplete-event-size 3 | engine | h11_max_incomplete_event_size | 3
--reset-contextvars | engine | reset_contextvars | True
--factory | ours | factory | True
--help | prints
"""

GUNICORN = """
-c everycore.toml | file
--config everycore.toml | file
-b :81 | ours | bind | (':81',)
--bind :81 | ours | bind | (':81',)
--backlog 64 | ours | backlog | 64
-w 3 | ours | workers | 3
--workers 3 | ours | workers | 3
-k | says | leave it out; --interface, --loop and --
--worker-class | says | leave it out; --interface, --loop and --
--threads 4 | ours | threads | 4
--worker-connections | says | not yet: --limit-concurrency answers 503
--max-requests 30 | ours | max_requests | 30
--max-requests-jitter 3 | ours | max_requests_jitter | 3
-t 45 | ours | stall_kill | 45.0
--timeout 45 | ours | stall_kill | 45.0
--graceful-timeout 7 | ours | grace | 7.0
--keep-alive 3 | engine | timeout_keep_alive | 3
--limit-request-line | says | the engine has its own: --h11-max-incomp
--limit-request-fields | says | the engine has its own: --h11-max-incomp
--limit-request-field_size | says | the engine has its own: --h11-max-incomp
--reload | ours | reload | True
--reload-engine | says | leave it out; watchfiles watches the fil
--reload-extra-file | says | the option is --reload-include here
--spew | says | everycore does not trace; SIGQUIT prints
--check-config | says | type everycore config --check
--print-config | says | type everycore config
--preload | ours | preload | True
--no-sendfile | says | leave it out; everycore does not use sen
--reuse-port | says | leave it out; one process listens, and h
--chdir / | ours | chdir | '/'
-D | says | everycore stays in the foreground; a ser
--daemon | says | everycore stays in the foreground; a ser
-e A=1 | ours | env | {'A': '1'}
--env A=1 | ours | env | {'A': '1'}
-p x.pid | ours | pid | 'x.pid'
--pid x.pid | ours | pid | 'x.pid'
--worker-tmp-dir | says | leave it out; workers have no heartbeat
-u nobody | ours | user | 'nobody'
--user nobody | ours | user | 'nobody'
-g nogroup | ours | group | 'nogroup'
--group nogroup | ours | group | 'nogroup'
-m 022 | ours | umask | 18
--umask 022 | ours | umask | 18
--initgroups | says | leave it out; workers always have all gr
--forwarded-allow-ips x | engine | forwarded_allow_ips | 'x'
--access-logfile - | ours | access_logfile | '-'
--disable-redirect-access-to-syslog | says | not yet: nothing goes to syslog; meanwhile
--access-logformat %(h)s | ours | access_logformat | '%(h)s'
--error-logfile /dev/null | ours | log_file | '/dev/null'
--log-file /dev/null | ours | log_file | '/dev/null'
--log-level trace | ours | log_level | 'trace'
--capture-output | says | not yet: what the application prints is
--logger-class | says | not yet: everycore's own log has two for
--log-config /dev/null | ours | log_config | '/dev/null'
--log-config-json | says | the option is --log-config here, which re
--log-syslog-to | says | not yet: nothing goes to syslog; meanwhile
--log-syslog | says | not yet: nothing goes to syslog; meanwhile
--log-syslog-prefix | says | not yet: nothing goes to syslog; meanwhile
--log-syslog-facility | says | not yet: nothing goes to syslog; meanwhile
-R | says | leave it out; workers inherit stdout and
--enable-stdio-inheritance | says | leave it out; workers inherit stdout and
--statsd-host | says | not yet: nothing is sent to statsd; mean
--dogstatsd-tags | says | not yet: nothing is sent to statsd; mean
--statsd-prefix | says | not yet: nothing is sent to statsd; mean
--enable-backlog-metric | says | leave it out; --metrics HOST:PORT
-n shop | ours | name | 'shop'
--name shop | ours | name | 'shop'
--pythonpath / | ours | app_dir | '/'
--paste | says | everycore reads no Paste files
--proxy-protocol | says | the option is --trust-proxy-protocol ADD
--proxy-allow-from | says | the option is --trust-proxy-protocol ADD
--protocol | says | everycore speaks HTTP only, neither uwsg
--uwsgi-allow-from | says | everycore speaks HTTP only, neither uwsg
--keyfile /dev/null --ssl-certfile /dev/null | engine | ssl_keyfile | '/dev/null'
--certfile /dev/null | engine | ssl_certfile | '/dev/null'
--ssl-version 3 | engine | ssl_version | 3
--cert-reqs 3 | engine | ssl_cert_reqs | 3
--ca-certs /dev/null | engine | ssl_ca_certs | '/dev/null'
--suppress-ragged-eofs | says | leave it out; the event loop does the ha
--do-handshake-on-connect | says | leave it out; the event loop does the ha
--ciphers x | engine | ssl_ciphers | 'x'
--http-protocols | says | leave it out; --engine hypercorn speaks HT
--http2-cleartext | says | leave it out; --engine hypercorn speaks HT
--http2-max-concurrent-streams 3 --engine hypercorn | engine | h2_max_concurrent_streams | 3
--http2-initial-window-size | says | leave it out; the engine for HTTP/2 is h
--http2-max-frame-size 20000 --engine hypercorn | engine | h2_max_inbound_frame_size | 20000
--http2-max-header-list-size 3 --engine hypercorn | engine | h2_max_header_list_size | 3
--paste-global | says | everycore reads no Paste files
--permit-obsolete-folding | says | this is an option of gunicorn's parser;
--strip-header-spaces | says | this is an option of gunicorn's parser;
--permit-unconventional-http-method | says | this is an option of gunicorn's parser;
--permit-unconventional-http-version | says | this is an option of gunicorn's parser;
--casefold-http-method | says | this is an option of gunicorn's parser;
--forwarder-headers | says | this is an option of gunicorn's parser;
--header-map | says | this is an option of gunicorn's parser;
--asgi-loop asyncio | ours | loop | 'asyncio'
--asgi-lifespan off | ours | lifespan | 'off'
--asgi-disconnect-grace-period | says | leave it out; the application is told of
--websocket-max-message-size 3 | engine | ws_max_size | 3
--http-parser | says | the option is --http here, as uvicorn ha
--root-path x | engine | root_path | 'x'
--dirty-app | says | a long job is a worker of its own here:
--dirty-workers | says | a long job is a worker of its own here:
--dirty-timeout | says | a long job is a worker of its own here:
--dirty-threads | says | a long job is a worker of its own here:
--dirty-graceful-timeout | says | a long job is a worker of its own here:
--control-socket x | ours | control | 'x'
--control-socket-mode | says | leave it out; only the user of the prima
--no-control-socket | says | the option is --control off here
-v | says | type everycore --version
--version | prints
-h | prints
--help | prints
"""

GRANIAN = """
--host 10.0.0.1 | ours | host | '10.0.0.1'
--port 81 | ours | port | 81
--uds /run/x | ours | uds | '/run/x'
--uds-permissions 660 | ours | socket_mode | 432
--interface wsgi | ours | interface | 'wsgi'
--http x | engine | http | 'x'
--ws x | engine | ws | 'x'
--workers 3 | ours | workers | 3
--blocking-threads 4 | ours | threads | 4
--blocking-threads-idle-timeout | says | leave it out; idle threads stay
--runtime-threads | says | leave it out; no engine here has a Rust
--runtime-blocking-threads | says | leave it out; no engine here has a Rust
--runtime-mode | says | leave it out; no engine here has a Rust
--loop asyncio | ours | loop | 'asyncio'
--task-impl | says | leave it out; no engine here has a Rust
--backlog 64 | ours | backlog | 64
--backpressure | says | not yet: --limit-concurrency answers 503
--http1-buffer-size | says | the engine has its own: --h11-max-incomp
--http1-header-read-timeout | says | uvicorn has no such limit; put a proxy t
--http1-keep-alive | says | the option is --timeout-keep-alive here,
--http1-pipeline-flush | says | leave it out; uvicorn writes each respon
--http2-adaptive-window | says | leave it out; the engine for HTTP/2 is h
--http2-initial-connection-window-size | says | leave it out; the engine for HTTP/2 is h
--http2-initial-stream-window-size | says | leave it out; the engine for HTTP/2 is h
--http2-keep-alive-interval | says | leave it out; the engine for HTTP/2 is h
--http2-keep-alive-timeout | says | leave it out; the engine for HTTP/2 is h
--http2-max-concurrent-streams 3 --engine hypercorn | engine | h2_max_concurrent_streams | 3
--http2-max-frame-size 20000 --engine hypercorn | engine | h2_max_inbound_frame_size | 20000
--http2-max-headers-size 3 --engine hypercorn | engine | h2_max_header_list_size | 3
--http2-max-send-buffer-size | says | leave it out; the engine for HTTP/2 is h
--log | says | the option is --log-level here
--no-log | says | the option is --log-level here
--log-level trace | ours | log_level | 'trace'
--log-config /dev/null | ours | log_config | '/dev/null'
--access-log | ours | access_log | True
--access-log-fmt | says | the option is --access-logformat here, w
--ssl-certificate /dev/null | engine | ssl_certfile | '/dev/null'
--ssl-keyfile /dev/null --ssl-certfile /dev/null | engine | ssl_keyfile | '/dev/null'
--ssl-keyfile-password x | engine | ssl_keyfile_password | 'x'
--ssl-protocol-min | says | uvicorn only has --ssl-version; Python a
--ssl-ca /dev/null | engine | ssl_ca_certs | '/dev/null'
--ssl-crl | says | uvicorn reads no revocation lists; put a
--ssl-client-verify | says | the option is --ssl-cert-reqs 2 here, as
--url-path-prefix | says | the option is --root-path here, as uvico
--respawn-failed-workers | says | leave it out; a worker that dies is repl
--respawn-interval | says | leave it out; a worker that dies is repl
--rss-sample-interval | says | leave it out; --max-memory measures ever
--rss-samples | says | leave it out; --max-memory measures ever
--workers-lifetime | says | the option is --max-lifetime here, in sec
--workers-max-rss | says | the option is --max-memory here, as in 3
--workers-kill-timeout 7 | ours | grace | 7.0
--factory | ours | factory | True
--working-dir / | ours | chdir | '/'
--env-files /dev/null | ours | env_file | '/dev/null'
--static-path-route | says | everycore serves no files; let the appli
--static-path-mount | says | everycore serves no files; let the appli
--static-path-dir-to-file | says | everycore serves no files; let the appli
--static-path-expires | says | everycore serves no files; let the appli
--metrics 10.0.0.1:81 | ours | metrics | '10.0.0.1:81'
--metrics-scrape-interval | says | leave it out; --metrics measures at the
--metrics-address | says | the option is --metrics HOST:PORT
--metrics-port | says | the option is --metrics HOST:PORT
--reload | ours | reload | True
--reload-paths | says | the option is --reload here
--reload-ignore-dirs | says | the option is --reload-exclude here
--reload-ignore-patterns | says | the option is --reload-exclude here
--reload-ignore-paths | says | the option is --reload-exclude here
--reload-tick | says | the option is --reload-delay here
--reload-ignore-worker-failure | says | leave it out; --reload then waits for th
--process-name | says | the option is --name here; log lines sho
--pid-file x.pid | ours | pid | 'x.pid'
--version | prints
--help | prints
"""

HYPERCORN = """
--access-log | ours | access_log | True
--access-logfile - | ours | access_logfile | '-'
--access-logformat %(h)s | ours | access_logformat | '%(h)s'
--backlog 64 | ours | backlog | 64
-b :81 | ours | bind | (':81',)
--bind :81 | ours | bind | (':81',)
--ca-certs /dev/null | engine | ssl_ca_certs | '/dev/null'
--certfile /dev/null | engine | ssl_certfile | '/dev/null'
--cert-reqs 3 | engine | ssl_cert_reqs | 3
--ciphers x | engine | ssl_ciphers | 'x'
-c everycore.toml | file
--config everycore.toml | file
-D | says | everycore stays in the foreground; a ser
--daemon | says | everycore stays in the foreground; a ser
--debug | says | the option is --log-level debug here
--error-log /dev/null | ours | log_file | '/dev/null'
--error-logfile /dev/null | ours | log_file | '/dev/null'
--log-file /dev/null | ours | log_file | '/dev/null'
--graceful-timeout 7 | ours | grace | 7.0
--read-timeout 3 --engine hypercorn | engine | read_timeout | 3.0
--max-requests 30 | ours | max_requests | 30
--max-requests-jitter 3 | ours | max_requests_jitter | 3
-g nogroup | ours | group | 'nogroup'
--group nogroup | ours | group | 'nogroup'
-k | says | leave it out; --interface, --loop and --
--worker-class | says | leave it out; --interface, --loop and --
--keep-alive 3 | engine | timeout_keep_alive | 3
--keyfile /dev/null --ssl-certfile /dev/null | engine | ssl_keyfile | '/dev/null'
--keyfile-password x | engine | ssl_keyfile_password | 'x'
--insecure-bind | says | all addresses speak TLS, or none does; s
--log-config /dev/null | ours | log_config | '/dev/null'
--log-level trace | ours | log_level | 'trace'
-p x.pid | ours | pid | 'x.pid'
--pid x.pid | ours | pid | 'x.pid'
--quic-bind :443 --engine hypercorn | engine | quic_bind | (':443',)
--reload | ours | reload | True
--root-path x | engine | root_path | 'x'
--server-name x --engine hypercorn | engine | server_names | ('x',)
--statsd-host | says | not yet: nothing is sent to statsd; mean
--statsd-prefix | says | not yet: nothing is sent to statsd; mean
-m 022 | ours | umask | 18
--umask 022 | ours | umask | 18
-u nobody | ours | user | 'nobody'
--user nobody | ours | user | 'nobody'
--verify-mode | says | the option is --ssl-cert-reqs here: 0, 1
--websocket-ping-interval 3.5 | engine | ws_ping_interval | 3.5
-w 3 | ours | workers | 3
--workers 3 | ours | workers | 3
-h | prints
--help | prints
"""

WAITRESS = """
--help | prints
--call | says | the option is --factory here
--host 10.0.0.1 | ours | host | '10.0.0.1'
--port 81 | ours | port | 81
--listen | says | the option is --bind here; waitress' *:8
--ipv4 | says | name the address instead: --bind 0.0.0.0
--no-ipv4 | says | name the address instead: --bind 0.0.0.0
--ipv6 | says | name the address instead: --bind 0.0.0.0
--no-ipv6 | says | name the address instead: --bind 0.0.0.0
--unix-socket | says | the option is --uds here
--unix-socket-perms | says | the option is --socket-mode here
--url-scheme | says | leave it out; a proxy named in --forward
--url-prefix | says | the option is --root-path here, as uvico
--ident | says | the options are --no-server-header and -
--threads 4 | ours | threads | 4
--backlog 64 | ours | backlog | 64
--recv-bytes | says | leave it out; bodies are streamed in bot
--send-bytes | says | leave it out; bodies are streamed in bot
--outbuf-overflow | says | leave it out; bodies are streamed in bot
--outbuf-high-watermark | says | leave it out; bodies are streamed in bot
--inbuf-overflow | says | leave it out; bodies are streamed in bot
--connection-limit | says | not yet: --limit-concurrency answers 503
--cleanup-interval | says | leave it out; bodies are streamed in bot
--channel-timeout | says | the option is --timeout-keep-alive here,
--log-socket-errors | says | leave it out; the traceback of an error
--no-log-socket-errors | says | leave it out; the traceback of an error
--max-request-header-size | says | the engine has its own: --h11-max-incomp
--max-request-body-size | says | uvicorn has no such limit; set one in a
--expose-tracebacks | says | leave it out; the traceback of an error
--no-expose-tracebacks | says | leave it out; the traceback of an error
--asyncore-loop-timeout | says | leave it out; bodies are streamed in bot
--asyncore-use-poll | says | leave it out; bodies are streamed in bot
--channel-request-lookahead | says | leave it out; bodies are streamed in bot
--trusted-proxy | says | the option is --forwarded-allow-ips here
--trusted-proxy-count | says | the option is --forwarded-allow-ips here
--trusted-proxy-headers | says | the option is --forwarded-allow-ips here
--log-untrusted-proxy-headers | says | the option is --forwarded-allow-ips here
--clear-untrusted-proxy-headers | says | the option is --forwarded-allow-ips here
"""

PM2 = """
--name shop | ours | name | 'shop'
--ext | says | leave it out; it is about PM2's daemon,
--mini-list | says | leave it out; it is about PM2's daemon,
--interpreter | says | start everycore with that Python and its
--interpreter-args | says | start everycore with that Python and its
--node-args | says | start everycore with that Python and its
--output | says | not yet: what the application prints is
--error | says | not yet: what the application prints is
--log | says | the option is --log-level here
--filter-env | says | remove the variable where the service is
--log-type | says | the option is --log-format here: text, js
--log-date-format | says | not yet: everycore's own log has two for
--time | says | leave it out; every log line begins with
--disable-logs | says | the option is --log-level here
--env A=1 | ours | env | {'A': '1'}
--update-env | says | HUP reads --env-file and the settings fi
--force | says | leave it out; it is about PM2's daemon,
--instances | says | the option is --workers here
--parallel | says | the option is --surge here
--shutdown-with-message | says | leave it out; a worker is told by its ch
--pid x.pid | ours | pid | 'x.pid'
--kill-timeout | says | the option is --grace here, in seconds
--listen-timeout | says | the option is --boot-timeout of everycor
--max-memory-restart | says | the option is --max-memory here, as in 3
--restart-delay | says | leave it out; a worker that dies is repl
--exp-backoff-restart-delay | says | leave it out; a worker that dies is repl
--execute-command | says | type everycore run PROGRAM
--max-restarts | says | not yet: a slot fails after five exits i
--user nobody | ours | user | 'nobody'
--hp | says | systemd starts the service: docs/how-to/
--wait-ip | says | systemd starts the service: docs/how-to/
--service-name | says | systemd starts the service: docs/how-to/
--uid nobody | ours | user | 'nobody'
--gid nogroup | ours | group | 'nogroup'
--namespace | says | the option is --name here; log lines sho
--cwd / | ours | chdir | '/'
--cron-restart | says | not yet: nothing runs by the clock; mean
--write | says | leave it out; it is about PM2's daemon,
--no-daemon | says | leave it out; everycore stays in the for
--source-map-support | says | leave it out; it is about PM2's daemon,
--only | says | leave it out; it is about PM2's daemon,
--wait-ready | says | a worker always can: hold_ready() and re
--merge-logs | says | leave it out; all workers write to one s
--watch | says | the option is --reload here
--ignore-watch | says | the option is --reload-exclude here
--watch-delay | says | the option is --reload-delay here
--no-color | says | leave it out; everycore writes no colour
--no-vizion | says | leave it out; it is about PM2's daemon,
--no-autostart | says | leave it out; it is about PM2's daemon,
--no-autorestart | says | a worker that dies is replaced; under ru
--stop-exit-codes | says | a worker that dies is replaced; under ru
--no-treekill | says | leave it out; it is about PM2's daemon,
--no-pmx | says | leave it out; it is about PM2's daemon,
--no-automation | says | leave it out; it is about PM2's daemon,
--trace | says | leave it out; it is about PM2's daemon,
--v8 | says | leave it out; it is about PM2's daemon,
--event-loop-inspector | says | leave it out; it is about PM2's daemon,
--deep-monitoring | says | leave it out; it is about PM2's daemon,
--sort | says | leave it out; it is about PM2's daemon,
--attach | says | leave it out; it is about PM2's daemon,
start | command | type everycore serve MODULE:
stop | own
restart | command | the service manager restarts
reload | own
startOrReload | command | type everycore reload
startOrRestart | command | type everycore reload
gracefulReload | command | type everycore reload
scale | own
list | command | type everycore status
jlist | command | type everycore status
prettylist | command | type everycore status
status | own
describe | command | type everycore status
pid | command | type everycore status
id | command | type everycore status
monit | command | type everycore top, or eve
dashboard | command | type everycore top, or eve
imonit | command | type everycore top, or eve
sysinfos | command | type everycore top, or eve
logs | command | the log is on stderr, or in
flush | command | the log is on stderr, or in
reloadLogs | command | the log is on stderr, or in
logrotate | command | the log is on stderr, or in
env | command | type everycore config
reset | command | leave it out; there are no counters to r
sendSignal | command | type kill -SIGNAL PID
trigger | command | only the library sends messages to worke
send | command | only the library sends messages to worke
attach | command | only the library sends messages to worke
save | command | systemd starts the service: docs/how-to/
resurrect | command | systemd starts the service: docs/how-to/
startup | command | systemd starts the service: docs/how-to/
unstartup | command | systemd starts the service: docs/how-to/
deploy | command | point the link to the release and send H
pull | command | point the link to the release and send H
forward | command | point the link to the release and send H
backward | command | point the link to the release and send H
ecosystem | command | write everycore.toml; everyc
init | command | write everycore.toml; everyc
profile:cpu | command | SIGQUIT prints all stacks; run a profile
profile:mem | command | SIGQUIT prints all stacks; run a profile
inspect | command | SIGQUIT prints all stacks; run a profile
report | command | leave it out; everycore has no daemon
ping | command | leave it out; everycore has no daemon
kill | command | type everycore stop
update | command | leave it out; everycore has no daemon
module:x | command | everycore has no modules, and
link | command | everycore has no modules, and no monitor
plus | command | everycore has no modules, and no monitor
"""
