"Batches, callbacks, checkpoints, and what goes into training unseen"
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'checkpoint': ['Checkpoint'],
    'loaders': ['dataloaders'],
    'ready': ['prepare', 'Prepared'],
})
