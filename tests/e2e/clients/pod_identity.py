"""A program in a pod: google-auth finds its credentials by itself, at the metadata server.

Arguments: the cloud's endpoint, the cluster's, a file with the cluster CA, an audience. Prints what it is and may, as JSON.
"""

import base64
import json
import sys

import google.auth
import google.auth.exceptions
import google.auth.jwt
import google.auth.transport.requests
import google.oauth2.id_token
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

cloud, cluster, authority, audience = sys.argv[1:]
request = google.auth.transport.requests.Request()
# Without the second one the cluster does not learn who it is.
scopes = ["https://www.googleapis.com/auth/cloud-platform", "https://www.googleapis.com/auth/userinfo.email"]
credentials, project = google.auth.default(scopes=scopes)
out = {"kind": type(credentials).__module__, "project": project}
try:
    credentials.refresh(request)
except google.auth.exceptions.RefreshError as error:
    out["refused"] = str(error)
    print(json.dumps(out))
    sys.exit()
out["account"] = credentials.service_account_email


def number(text):
    return int.from_bytes(base64.urlsafe_b64decode(text + "=="), "big")


def status(url, **more):
    headers = {"Authorization": f"Bearer {credentials.token}"}
    response = requests.get(url, headers=headers, timeout=20, **more)
    return {"code": response.status_code, "body": response.json()}


out["clusters"] = status(f"{cloud}/v1/projects/{project}/locations/-/clusters")["code"]
out["pods"] = status(f"https://{cluster}/api/v1/pods", verify=authority)
try:
    token = google.oauth2.id_token.fetch_id_token(request, audience)
    keys = requests.get(f"{cloud}/oauth2/v3/certs", timeout=20).json()["keys"]
    form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    certificates = {
        key["kid"]: RSAPublicNumbers(number(key["e"]), number(key["n"])).public_key().public_bytes(*form) for key in keys
    }
    claims = google.auth.jwt.decode(token, certs=certificates, audience=audience)
    out["identity"] = {name: claims[name] for name in ("iss", "email", "email_verified")}
except google.auth.exceptions.GoogleAuthError as error:
    out["identity"] = str(error)
print(json.dumps(out))
