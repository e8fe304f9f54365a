"""How every step is made: in the project's own image, with nothing installed when it starts."""

from kfp import dsl

from tripcast import __version__

#: The image that holds kfp and this project; `compile.py --image` writes another one into the compiled pipelines.
IMAGE = f"tripcast/pipeline:{__version__}"

step = dsl.component(base_image=IMAGE, install_kfp_package=False)
