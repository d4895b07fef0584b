"""Keys from the files of other servers, as if written into everycore.toml, and how each is answered."""

#: A key, a value, and the answer after "there is no such setting; ".
KEYS = """
access_log_format | "%(h)s" | the key is 'access-logformat'
accesslog | "-" | the key is 'access-logfile'
control_socket_disable | true | the option is --control off here
default_proc_name | "x" | the key is 'name'
dirty_apps | [] | a long job is a worker of its own here
errorlog | "-" | the key is 'log-file'
keepalive | 2 | the key is 'timeout-keep-alive'
limit_request_field_size | 9000 | the engine has its own
logconfig | "x" | the key is 'log-config'
logconfig_dict | {} | the option is --log-config here
logconfig_json | "x" | the option is --log-config here
loglevel | "info" | the key is 'log-level'
pidfile | "x" | the key is 'pid'
preload_app | true | the key is 'preload'
proc_name | "x" | the key is 'name'
proxy_allow_ips | "x" | the option is --trust-proxy-protocol
raw_env | ["A=1"] | the key is 'env'
raw_paste_global_conf | [] | everycore reads no Paste files
reload_extra_files | [] | the option is --reload-include here
sendfile | true | leave it out; everycore does not use sen
syslog | true | not yet: nothing goes to syslog
syslog_addr | "x" | not yet: nothing goes to syslog
syslog_facility | "x" | not yet: nothing goes to syslog
syslog_prefix | "x" | not yet: nothing goes to syslog
uwsgi_allow_ips | "x" | everycore speaks HTTP only
wsgi_app | "x" | the key is 'app'
graceful_timeout | 3 | the key is 'grace'
worker_class | "sync" | leave it out; --interface, --loop and --
timeout | 30 | the key is 'stall-kill'
certfile | "x" | the key is 'ssl-certfile'
serve.certfile | "x" | the key is 'ssl-certfile'
secure_scheme_headers | {} | uvicorn reads X-Forwarded-Proto
tmp_upload_dir | "x" | leave it out; bodies are not written
on_starting | "x" | leave it to the service manager
when_ready | "x" | the log says when the service is ready
on_reload | "x" | leave it to the service manager
pre_fork | "x" | leave it out; with --preload, the applic
post_fork | "x" | use the lifespan startup; with --preload
post_worker_init | "x" | use the end of the application's module
worker_int | "x" | use what a worker runs when it is stoppe
worker_abort | "x" | leave it out; the log shows the stacks o
worker_exit | "x" | use what a worker runs at its end: the a
child_exit | "x" | use the application's lifespan shutdown
nworkers_changed | "x" | the log says so; a program of your own
pre_exec | "x" | not yet: USR2 does not replace the prima
pre_request | "x" | use a middleware of the application
post_request | "x" | use a middleware of the application
on_exit | "x" | leave it to the service manager: systemd
ssl_context | "x" | use the options --ssl-certfile
on_dirty_starting | "x" | a long job is a worker of its own here:
dirty_post_fork | "x" | a long job is a worker of its own here:
dirty_worker_init | "x" | a long job is a worker of its own here:
dirty_worker_exit | "x" | a long job is a worker of its own here:
application_path | "x" | the key is 'app'
h11_max_incomplete_size | 3 | the key is 'h11-max-incomplete-event-siz
include_date_header | true | the key is 'date-header'
include_server_header | true | the key is 'server-header'
keep_alive_timeout | 3 | the key is 'timeout-keep-alive'
pid_path | "x" | the key is 'pid'
server_names | [] | the key is 'server-name'
startup_timeout | 3 | the key is 'boot-timeout'
use_reloader | true | the key is 'reload'
error_file | "x" | not yet: what the application prints is
out_file | "x" | not yet: what the application prints is
script | "x" | the key is 'app'
max_restarts | 3 | not yet: a slot fails after five exits i
apps | [] | everycore runs one service
args | "x" | use the words after the program: everyco
exec_mode | "x" | leave it out; it is always a cluster
instance_var | "x" | use EVERYCORE_SLOT, which is that number
instances | 3 | the option is --workers here
kill_timeout | 3 | the option is --grace here, in seconds
"""
