"""Keys from the files of other servers, as if written into everycore.toml, and how each is answered."""

#: A key, a value, and the answer after "there is no such setting; ".
KEYS = """
access_log_format | "%(h)s" | the key is 'access-logformat'
accesslog | "-" | the key is 'access-logfile'
control_socket_disable | true | the option is --control off here
default_proc_name | "x" | the key is 'name'
dirty_apps | [] | long jobs are workers of their own here
errorlog | "-" | the key is 'log-file'
keepalive | 2 | the key is 'timeout-keep-alive'
limit_request_field_size | 9000 | the engine's own limit
logconfig | "x" | the key is 'log-config'
logconfig_dict | {} | the option is --log-config here
logconfig_json | "x" | the option is --log-config here
loglevel | "info" | the key is 'log-level'
pidfile | "x" | the key is 'pid'
preload_app | true | the key is 'preload'
proc_name | "x" | the key is 'name'
proxy_allow_ips | "x" | the PROXY protocol is read for
raw_env | ["A=1"] | the key is 'env'
raw_paste_global_conf | [] | Paste's files are not read
reload_extra_files | [] | the option is --reload-include here
sendfile | true | leave it out; nothing is sent by sendfil
syslog | true | not yet: there is no syslog
syslog_addr | "x" | not yet: there is no syslog
syslog_facility | "x" | not yet: there is no syslog
syslog_prefix | "x" | not yet: there is no syslog
uwsgi_allow_ips | "x" | everycore speaks HTTP alone
wsgi_app | "x" | the key is 'app'
graceful_timeout | 3 | the key is 'grace'
worker_class | "sync" | leave it out; --interface says what APP
timeout | 30 | the key is 'stall-kill'
certfile | "x" | the key is 'ssl-certfile'
serve.certfile | "x" | the key is 'ssl-certfile'
secure_scheme_headers | {} | uvicorn reads X-Forwarded-Proto
tmp_upload_dir | "x" | leave it out; bodies are not written
on_starting | "x" | what comes before the start is the servi
when_ready | "x" | the log says when it serves
on_reload | "x" | what comes before a reload is the servic
pre_fork | "x" | leave it out; with --preload, the applic
post_fork | "x" | the lifespan startup; with --preload
post_worker_init | "x" | the end of the application's module, or
worker_int | "x" | what a worker does when it is stopped
worker_abort | "x" | leave it out; the log has the stacks of
worker_exit | "x" | what a worker does when it ends
child_exit | "x" | the application's lifespan shutdown, or
nworkers_changed | "x" | the log says so; a program of your own
pre_exec | "x" | not yet: USR2 does not replace the prima
pre_request | "x" | a middleware of the application
post_request | "x" | a middleware of the application
on_exit | "x" | what comes after the end is the service
ssl_context | "x" | the options --ssl-certfile, --ssl-keyfil
on_dirty_starting | "x" | long jobs are workers of their own here
dirty_post_fork | "x" | long jobs are workers of their own here
dirty_worker_init | "x" | long jobs are workers of their own here
dirty_worker_exit | "x" | long jobs are workers of their own here
application_path | "x" | the key is 'app'
h11_max_incomplete_size | 3 | the key is 'h11-max-incomplete-event-siz
include_date_header | true | the key is 'date-header'
include_server_header | true | the key is 'server-header'
keep_alive_timeout | 3 | the key is 'timeout-keep-alive'
pid_path | "x" | the key is 'pid'
server_names | [] | the key is 'server-name'
startup_timeout | 3 | the key is 'boot-timeout'
use_reloader | true | the key is 'reload'
error_file | "x" | not yet: what the application prints s
out_file | "x" | not yet: what the application prints s
script | "x" | the key is 'app'
max_restarts | 3 | not yet: five ends within a minute
apps | [] | everycore runs one service
args | "x" | the words behind the program
exec_mode | "x" | leave it out; it is always a cluster
instance_var | "x" | EVERYCORE_SLOT in the environment
instances | 3 | the option is --workers here
kill_timeout | 3 | the option is --grace here, in seconds
"""
