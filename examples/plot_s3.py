"""
Images in object storage
========================

Images, store and results in an S3 bucket: the same calls, with URLs for paths. Nothing is landed on disk on the way.
Here the bucket is of a server on this machine (``pip install "moto[s3,server]"``), so that no account is needed.
"""

# %%
# The server, which listens on the loopback alone, and an empty bucket. With a bucket of your own leave this out: keys
# come from the environment (or a profile), on each worker, and are in no log.
import os
import tempfile
from pathlib import Path

try:
    import boto3
    from moto.server import ThreadedMotoServer
except ImportError as error:
    raise SystemExit(
        f'this example starts an S3 server of its own, which needs moto ({error}); pip install "moto[s3,server]" '
        '"daskglm[cloud]", or set `bucket` to one of yours'
    ) from error

import logging

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd
from nilearn.plotting import plot_stat_map

import daskglm
from daskglm.simulation import blob, simulate_brain, simulate_maps

logging.getLogger("werkzeug").setLevel(logging.WARNING)  # not a line for each request
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
host, port = server.get_host_and_port()
folder = Path(tempfile.mkdtemp())
os.environ |= {
    "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    "AWS_ACCESS_KEY_ID": "example",
    "AWS_SECRET_ACCESS_KEY": "example",
    "AWS_DEFAULT_REGION": "us-east-1",
    # Your own profiles are not looked at.
    "AWS_SHARED_CREDENTIALS_FILE": str(folder / "none"),
    "AWS_CONFIG_FILE": str(folder / "none"),
}
client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
client.create_bucket(Bucket="cohort")
bucket = "s3://cohort"

# %%
# A simulated cohort, uploaded: a map a subject, which grows with age in one place, and a table.
n_subjects = 30
mask = simulate_brain(voxel_mm=8)
inside = mask.get_fdata() > 0
age = np.random.default_rng(0).uniform(20, 80, n_subjects).round(1)
slope = blob(mask, (-30, -20, -14), height=-0.06) + blob(mask, (30, 40, 20), height=0.06)
participants = pd.DataFrame({"participant_id": [f"sub-{k + 1:02d}" for k in range(n_subjects)], "age": age})
for name, image in zip(
    participants["participant_id"], simulate_maps(mask, {"age": age - 50}, {"age": slope}), strict=True
):
    path = folder / f"{name}_statmap.nii.gz"
    image.to_filename(path)
    client.upload_file(str(path), "cohort", f"maps/{path.name}")
client.put_object(Bucket="cohort", Key="participants.tsv", Body=participants.to_csv(sep="\t", index=False).encode())

# %%
# Files in the bucket become a chunked store in the bucket, and a folder of maps in the bucket.
result = daskglm.convert(
    f"{bucket}/maps/*.nii.gz", f"{bucket}/cohort.zarr", participants=f"{bucket}/participants.tsv", mask=mask
)
print(f"{len(result.written)} images converted")
images = daskglm.open_images(f"{bucket}/cohort.zarr")  # lazy: voxels are fetched when they are needed
print(images)
found = daskglm.group_analysis(f"{bucket}/cohort.zarr", f"{bucket}/results", "~ age", {"age": "age"})
listed = client.list_objects_v2(Bucket="cohort", Prefix="results/")["Contents"]
print("\n".join(f"{bucket}/{item['Key']}" for item in listed if item["Key"].endswith(".nii.gz")))

# %%
# The same numbers as from the files on disk, and as went in.
on_disk = daskglm.SecondLevelModel(mask_img=mask).fit(
    str(folder / "*_statmap.nii.gz"), confounds=participants, formula="~ age"
)
z_map = found.maps.glm.to_nifti("z_score", contrast="age")
z = z_map.get_fdata()[inside]
print(f"age: z from {z.min():.2f} to {z.max():.2f}")
their_z = on_disk.compute_contrast("age").get_fdata()[inside]
print(f"largest difference from files on disk, z: {np.abs(z - their_z).max():.1e}")
strong = np.abs(slope[inside]) > 0.03
print(
    f"found {(np.abs(z[strong]) > 3.09).mean():.0%} of the effect; elsewhere "
    f"{(np.abs(z[slope[inside] == 0]) > 3.09).mean():.2%} of voxels pass"
)
server.stop()

# %%
# The truth, and z.
figure, axes = plt.subplots(2, 1, figsize=(8, 5.5), gridspec_kw={"top": 0.92, "bottom": 0.03, "hspace": 0.2})
panels = {"true effect of a year": (nib.Nifti1Image(slope, mask.affine), 0.005), "z of age": (z_map, 3.09)}
for axis, (title, (image, threshold)) in zip(axes, panels.items(), strict=True):
    axis.set_title(title, loc="left")
    plot_stat_map(image, threshold=threshold, display_mode="z", cut_coords=[-16, -8, 16, 24], cmap="RdBu_r", axes=axis)
plt.show()
