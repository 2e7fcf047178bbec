"""One run on many processes: rendezvous, process group, summed gradients, sharded tensors, common end."""
