"""Django in one file: settings, addresses, and what manage.py, an ASGI and a WSGI server take."""

import sys

import django
from answer import slow, who
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path

settings.configure(
    SECRET_KEY="not one", ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], DATABASES={}, INSTALLED_APPS=[]
)
django.setup()


def index(request):
    return HttpResponse(who(request.META["REMOTE_ADDR"]))


def wait(request):
    return HttpResponse(slow(request.META["REMOTE_ADDR"]))


urlpatterns = [path("", index), path("slow", wait)]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
else:
    asgi = get_asgi_application()
    wsgi = get_wsgi_application()
